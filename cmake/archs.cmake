# Every file src/models/arch/<name>.cc is an architecture that defines `const ArchSpec arch_<name>`. The list is made
# here, so that a new architecture is a new file and nothing else.
file(GLOB archs RELATIVE ${CMAKE_SOURCE_DIR}/src/models/arch CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/models/arch/*.cc)
list(FILTER archs EXCLUDE REGEX "_(test|bench)\\.cc$")
set(lines "")
foreach(file IN LISTS archs)
  get_filename_component(arch ${file} NAME_WE)
  string(APPEND lines "QUERN_ARCH(${arch})\n")
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/models/archs.inc CONTENT "${lines}")
