# The bundled model, quern/guide: this file becomes part of the binary. Without it everything builds, and asking for
# quern/guide is an error that says so.
set(QUERN_GUIDE models/guide/guide-q8_0.gguf CACHE STRING "GGUF file to embed as quern/guide (relative: to the source)")
cmake_path(ABSOLUTE_PATH QUERN_GUIDE BASE_DIRECTORY ${CMAKE_SOURCE_DIR} NORMALIZE OUTPUT_VARIABLE guide)
file(GLOB guide_found CONFIGURE_DEPENDS ${guide})  # configures again when it comes or goes
if(guide_found)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/engine/embedded_guide.cc
                              PROPERTIES COMPILE_DEFINITIONS "QUERN_GUIDE_FILE=\"${guide}\"" OBJECT_DEPENDS ${guide})
endif()
