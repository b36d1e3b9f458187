# SPDX-License-Identifier: Apache-2.0
# CUDA sources of the units: *.cu of a unit join the object library axial_<layer>_cuda of its layer, and all
# of them the target `axial_cuda_objects`. Compiled without a device; used by the preset cuda-compile.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "[build] no CUDA compiler; expected nvcc 12.4 or later on PATH or in CUDACXX, "
    "or a preset without AXIAL_CUDA")
endif()
set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "Compute capabilities to compile for")
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "[build] nvcc ${CMAKE_CUDA_COMPILER_VERSION}; expected 12.4 or later")
endif()
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # a CMake older than the nvcc does not know that it has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
add_custom_target(axial_cuda_objects)

# _axial_cuda(<layer> <source>...).
function(_axial_cuda layer)
  set(target axial_${layer}_cuda)
  add_library(${target} OBJECT ${ARGN})
  target_link_libraries(${target} PRIVATE axial_flags)
  # fmt 9 turns constexpr off under nvcc and then calls itself from constexpr code.
  target_compile_definitions(${target} PRIVATE FMT_USE_CONSTEXPR=1 FMT_CONSTEVAL=)
  # constexpr functions are called on devices too; a kernel that spills registers does not compile.
  target_compile_options(${target} PRIVATE --expt-relaxed-constexpr
    "SHELL:-Xptxas -v,--warn-on-spills,--warning-as-error" "SHELL:--Werror all-warnings")
  add_dependencies(axial_cuda_objects ${target})
endfunction()
