# SPDX-License-Identifier: Apache-2.0
# Compiler settings shared by every target: C++20, warnings, sanitizers, ccache, mold.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# One code model for libraries and programs, so that both can use one precompiled header.
set(CMAKE_CXX_COMPILE_OPTIONS_PIE "-fPIC")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
# Installed libraries find each other, and torch: beside the package in a wheel, else where it was built with.
set(AXIAL_INSTALL_RPATH "$ORIGIN" "$ORIGIN/../../torch/lib")

add_library(axial_flags INTERFACE)
target_include_directories(axial_flags INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_features(axial_flags INTERFACE cxx_std_20)
add_library(axial_warnings INTERFACE)
target_compile_options(axial_warnings INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<BOOL:${AXIAL_WERROR}>:-Werror>)

if(AXIAL_SANITIZE)
  add_compile_options(-fsanitize=${AXIAL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=${AXIAL_SANITIZE})
endif()

if(AXIAL_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # coverage of the libraries, which guides the fuzzer
endif()

# ccache sees through the precompiled header only with these two settings.
find_program(AXIAL_CCACHE ccache)
if(AXIAL_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${AXIAL_CCACHE})
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
endif()
find_program(AXIAL_MOLD mold)
if(AXIAL_MOLD AND (NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU" OR CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12.1))
  add_link_options(-fuse-ld=mold)
endif()
add_link_options(-Wl,-z,defs)
if(AXIAL_SANITIZE)
  # Sanitizer runtimes are resolved in the program, not in each shared library.
  set_property(DIRECTORY PROPERTY LINK_OPTIONS "")
  add_link_options(-fsanitize=${AXIAL_SANITIZE})
endif()
