# What a cross build of the kernels takes from the build machine: GoogleTest as source (Debian's googletest), and
# the two header-only libraries that core includes, linked into a folder of their own so that no other host
# header is seen.
set(GTEST_SOURCE /usr/src/googletest CACHE PATH "GoogleTest's source")
find_path(FMT_HEADERS fmt/format.h NO_CMAKE_FIND_ROOT_PATH PATHS /usr/include)
find_path(EXPECTED_HEADERS tl/expected.hpp NO_CMAKE_FIND_ROOT_PATH PATHS /usr/include)
if(NOT EXISTS ${GTEST_SOURCE}/CMakeLists.txt OR NOT FMT_HEADERS OR NOT EXPECTED_HEADERS)
  message(FATAL_ERROR "QUERN_KERNELS_ONLY needs googletest (source), libfmt-dev and libexpected-dev on this machine")
endif()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/host_headers)
file(CREATE_LINK ${FMT_HEADERS}/fmt ${CMAKE_BINARY_DIR}/host_headers/fmt SYMBOLIC)
file(CREATE_LINK ${EXPECTED_HEADERS}/tl ${CMAKE_BINARY_DIR}/host_headers/tl SYMBOLIC)

add_library(quern_host_headers INTERFACE)
target_include_directories(quern_host_headers SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/host_headers)
target_compile_definitions(quern_host_headers INTERFACE FMT_HEADER_ONLY)
set(QUERN_CORE_LIBS quern_host_headers)

set(INSTALL_GTEST OFF)
set(BUILD_GMOCK OFF)
add_subdirectory(${GTEST_SOURCE} ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
