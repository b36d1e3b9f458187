# SPDX-License-Identifier: Apache-2.0
# The torch that is already installed, as the target axial_torch. Used by this build and, installed
# beside AxialConfig.cmake, by projects that use Axial.
# find_package(Torch) stops where a CUDA torch meets a machine without CUDA, so the target is made
# from torch/include and torch/lib, which Python locates: AXIAL_PYTHON, else the Python that builds a
# wheel, else .venv of the project, else python3 on PATH.
if(NOT AXIAL_PYTHON)
  if(SKBUILD)
    set(AXIAL_PYTHON "${Python_EXECUTABLE}")
  elseif(EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
    set(AXIAL_PYTHON "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  else()
    find_program(AXIAL_PYTHON_FOUND python3 REQUIRED)
    set(AXIAL_PYTHON "${AXIAL_PYTHON_FOUND}")
  endif()
endif()
execute_process(COMMAND "${AXIAL_PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/torch_facts.py"
  OUTPUT_VARIABLE AXIAL_TORCH_FACTS RESULT_VARIABLE AXIAL_TORCH_RC ERROR_VARIABLE AXIAL_TORCH_ERR
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT AXIAL_TORCH_RC EQUAL 0)
  message(FATAL_ERROR "No torch found with ${AXIAL_PYTHON}: run tools/bootstrap, or set AXIAL_PYTHON to a Python that imports torch.\n${AXIAL_TORCH_ERR}")
endif()
list(GET AXIAL_TORCH_FACTS 0 AXIAL_TORCH_ROOT)
list(GET AXIAL_TORCH_FACTS 1 AXIAL_TORCH_VERSION)
list(GET AXIAL_TORCH_FACTS 2 AXIAL_TORCH_ABI)
message(STATUS "torch ${AXIAL_TORCH_VERSION} at ${AXIAL_TORCH_ROOT}")

add_library(axial_torch INTERFACE)
# torch bundles the headers, but not the symbols, of another fmt, and its folder is searched before the
# system's: a link puts the fmt that core and spdlog are built with in front.
find_package(fmt REQUIRED)
get_target_property(AXIAL_FMT_INCLUDE fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
list(GET AXIAL_FMT_INCLUDE 0 AXIAL_FMT_INCLUDE)
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/fmt_first")
file(CREATE_LINK "${AXIAL_FMT_INCLUDE}/fmt" "${PROJECT_BINARY_DIR}/fmt_first/fmt" SYMBOLIC)
target_include_directories(axial_torch SYSTEM INTERFACE
  $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/fmt_first>
  $<BUILD_INTERFACE:${AXIAL_TORCH_ROOT}/include>
  $<BUILD_INTERFACE:${AXIAL_TORCH_ROOT}/include/torch/csrc/api/include>)
target_compile_definitions(axial_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${AXIAL_TORCH_ABI})
foreach(lib torch torch_cpu c10)
  target_link_libraries(axial_torch INTERFACE "$<BUILD_INTERFACE:${AXIAL_TORCH_ROOT}/lib/lib${lib}.so>")
endforeach()
target_link_options(axial_torch INTERFACE
  "$<BUILD_INTERFACE:-Wl,-rpath-link,${AXIAL_TORCH_ROOT}/lib>")

# at::parallel_for is a template: without -fopenmp it is a serial loop around kernels that then start
# threads of their own. The runtime that torch brought is linked, so that a process has one.
# A clang without its OpenMP headers serves clang-tidy alone.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -fopenmp)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
check_cxx_source_compiles("#include <omp.h>\nint threads() { return omp_get_max_threads(); }" AXIAL_HAS_OPENMP)
unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
unset(CMAKE_REQUIRED_FLAGS)
if(AXIAL_HAS_OPENMP)
  target_compile_options(axial_torch INTERFACE -fopenmp)
endif()
file(GLOB AXIAL_GOMP "${AXIAL_TORCH_ROOT}/lib/libgomp*.so*")
if(AXIAL_GOMP)
  list(GET AXIAL_GOMP 0 AXIAL_GOMP)
  target_link_libraries(axial_torch INTERFACE "$<BUILD_INTERFACE:${AXIAL_GOMP}>")
else()
  target_link_libraries(axial_torch INTERFACE "$<BUILD_INTERFACE:gomp>")
endif()
if(NOT SKBUILD)
  list(APPEND AXIAL_INSTALL_RPATH "${AXIAL_TORCH_ROOT}/lib")
endif()

# A torch with CUDA sends tensors of devices over NCCL. Its wheels come with the headers of CUDA and NCCL in
# folders beside it; a toolkit serves too. Without them everything else is built.
if(EXISTS "${AXIAL_TORCH_ROOT}/lib/libtorch_cuda.so")
  file(GLOB AXIAL_CUDA_WHEELS "${AXIAL_TORCH_ROOT}/../nvidia/*/include")
  set(AXIAL_CUDA_INCLUDES ${AXIAL_CUDA_WHEELS})
  foreach(header cuda_runtime_api.h cublas_v2.h cusparse.h cusolverDn.h nccl.h)
    find_path(AXIAL_DIR_OF_${header} ${header} HINTS ${AXIAL_CUDA_WHEELS}
      PATHS /usr/local/cuda/include $ENV{CUDA_HOME}/include)
    if(AXIAL_DIR_OF_${header})
      list(APPEND AXIAL_CUDA_INCLUDES "${AXIAL_DIR_OF_${header}}")
    else()
      list(APPEND AXIAL_CUDA_MISSING ${header})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES AXIAL_CUDA_INCLUDES)
  if(AXIAL_CUDA_MISSING)
    message(STATUS "NCCL: left out, no ${AXIAL_CUDA_MISSING} beside torch or in /usr/local/cuda or CUDA_HOME")
  else()
    message(STATUS "NCCL: over torch's libtorch_cuda")
    set(AXIAL_TORCH_CUDA ON)
    foreach(lib torch_cuda c10_cuda)
      target_link_libraries(axial_torch INTERFACE "$<BUILD_INTERFACE:${AXIAL_TORCH_ROOT}/lib/lib${lib}.so>")
    endforeach()
    # CUDA's own libraries are found at run time, by torch's.
    target_link_options(axial_torch INTERFACE "$<BUILD_INTERFACE:-Wl,--unresolved-symbols=ignore-in-shared-libs>")
  endif()
endif()
