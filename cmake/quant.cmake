# Every folder of src/quant/ but isa/ is a format that defines `const QuantInfo quant_info_<folder>`. The list is made
# here, so that a new format is a new folder and nothing else.
file(GLOB formats RELATIVE ${CMAKE_SOURCE_DIR}/src/quant CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/quant/*)
list(REMOVE_ITEM formats isa)
set(lines "")
foreach(format IN LISTS formats)
  if(IS_DIRECTORY ${CMAKE_SOURCE_DIR}/src/quant/${format})
    string(APPEND lines "QUERN_QUANT(${format})\n")
  endif()
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/quant/formats.inc CONTENT "${lines}")
