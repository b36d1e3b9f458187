# SPDX-License-Identifier: Apache-2.0
# A layer is a folder under axial/; a unit is a folder in a layer with a CMakeLists.txt of one line:
#
#   axial_unit([REGISTER] [TORCH_FREE] [TORCH_FREE_FILES file...] [LINK library...])
#
# The unit's *.cpp join the layer's shared library, *_test.cpp the layer's test program, *_bench.cpp
# its benchmark program; each *_fuzz.cpp becomes a libFuzzer program, and in every build with tests a short
# run of fixed mutations (axial/testing/fuzz/short_run.cpp) as the test <layer>/<name>_short; *.cu are compiled with AXIAL_CUDA
# (cmake/AxialCuda.cmake). REGISTER adds
# axial::<layer>::register_<unit>(...) to the table generated for the layer. No shared list is edited.
#
# With AXIAL_TORCH=OFF (sanitizers, fuzzing) the layers above kernels keep only their torch-free files:
# all of a TORCH_FREE unit, or those it names after TORCH_FREE_FILES.

# axial_layer(<name> [TORCH] [DEPENDS <layer>...] [REGISTRY <type> <header>])
function(axial_layer name)
  cmake_parse_arguments(ARG "TORCH" "" "DEPENDS;REGISTRY" ${ARGN})
  set(AXIAL_LAYER_WITHOUT_TORCH OFF)
  if(ARG_TORCH AND NOT AXIAL_TORCH)
    set(AXIAL_LAYER_WITHOUT_TORCH ON)
    set(ARG_TORCH OFF)
    set(ARG_REGISTRY "")
  endif()
  set(target axial_${name})
  set(AXIAL_LAYER ${name})
  set(AXIAL_LAYER_TORCH ${ARG_TORCH})
  foreach(kind SOURCES TEST_SOURCES BENCH_SOURCES FUZZ_SOURCES CUDA_SOURCES LINKS REGISTERED)
    set_property(GLOBAL PROPERTY AXIAL_${name}_${kind} "")
  endforeach()
  file(GLOB unit_lists CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" "*/CMakeLists.txt")
  list(SORT unit_lists)
  foreach(unit_list IN LISTS unit_lists)
    get_filename_component(unit "${unit_list}" DIRECTORY)
    add_subdirectory("${unit}")
  endforeach()
  foreach(kind SOURCES TEST_SOURCES BENCH_SOURCES FUZZ_SOURCES CUDA_SOURCES LINKS REGISTERED)
    get_property(${kind} GLOBAL PROPERTY AXIAL_${name}_${kind})
  endforeach()
  if(ARG_REGISTRY)
    _axial_registry(${name} "${REGISTERED}" ${ARG_REGISTRY})
    list(APPEND SOURCES "${PROJECT_BINARY_DIR}/generated/axial/${name}/register_all.cpp")
  endif()

  if(AXIAL_CUDA AND CUDA_SOURCES)
    _axial_cuda(${name} ${CUDA_SOURCES})
  endif()

  set(deps axial_flags)
  if(AXIAL_LAYER_WITHOUT_TORCH)
    list(APPEND ARG_DEPENDS kernels)
  endif()
  foreach(dep IN LISTS ARG_DEPENDS)
    list(APPEND deps axial_${dep})
  endforeach()
  if(NOT SOURCES)
    add_library(${target} INTERFACE)
    add_library(axial::${name} ALIAS ${target})
    set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
    target_link_libraries(${target} INTERFACE ${deps})
    set_property(GLOBAL APPEND PROPERTY AXIAL_LAYERS ${name})
    return()
  endif()
  add_library(${target} SHARED ${SOURCES})
  add_library(axial::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES DEFINE_SYMBOL "" EXPORT_NAME ${name}
    INSTALL_RPATH "${AXIAL_INSTALL_RPATH}")
  if(NOT SKBUILD)  # a wheel holds no symbolic links
    set_target_properties(${target} PROPERTIES
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
  endif()
  target_link_libraries(${target} PUBLIC ${deps} ${LINKS} PRIVATE $<BUILD_INTERFACE:axial_warnings>)
  _axial_torch(${target})
  set_property(GLOBAL APPEND PROPERTY AXIAL_LAYERS ${name})
  if(AXIAL_TESTS AND TEST_SOURCES)
    _axial_program(${target}_tests "${TEST_SOURCES}" ${target})
    target_link_libraries(${target}_tests PRIVATE GTest::gmock GTest::gtest_main)
    set(test_seconds 300)
    if(AXIAL_SANITIZE)
      set(test_seconds 1800)  # ten to thirty times as long
    endif()
    gtest_discover_tests(${target}_tests TEST_PREFIX ${name}/ DISCOVERY_MODE PRE_TEST
      PROPERTIES LABELS cpu TIMEOUT ${test_seconds})
  endif()
  if(AXIAL_TESTS)
    foreach(source IN LISTS FUZZ_SOURCES)
      get_filename_component(fuzzer "${source}" NAME_WE)
      _axial_program(${fuzzer}_short "${source};${PROJECT_SOURCE_DIR}/axial/testing/fuzz/short_run.cpp" ${target})
      add_test(NAME ${name}/${fuzzer}_short COMMAND ${fuzzer}_short)
      set_tests_properties(${name}/${fuzzer}_short PROPERTIES LABELS cpu TIMEOUT 120)
    endforeach()
  endif()
  if(AXIAL_BENCHES AND BENCH_SOURCES)
    _axial_program(${target}_benches "${BENCH_SOURCES}" ${target})
    target_link_libraries(${target}_benches PRIVATE benchmark::benchmark_main)
  endif()
  if(AXIAL_FUZZ)
    foreach(source IN LISTS FUZZ_SOURCES)
      get_filename_component(fuzzer "${source}" NAME_WE)
      add_executable(${fuzzer} "${source}")
      target_compile_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
      target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
      target_link_libraries(${fuzzer} PRIVATE ${target} axial_warnings)
    endforeach()
  endif()
endfunction()

function(axial_unit)
  cmake_parse_arguments(ARG "REGISTER;TORCH_FREE" "" "LINK;TORCH_FREE_FILES" ${ARGN})
  get_filename_component(unit "${CMAKE_CURRENT_SOURCE_DIR}" NAME)
  file(GLOB_RECURSE all CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  if(AXIAL_LAYER_WITHOUT_TORCH AND NOT ARG_TORCH_FREE)
    list(TRANSFORM ARG_TORCH_FREE_FILES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/" OUTPUT_VARIABLE all)
  endif()
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  set(benches ${all})
  list(FILTER benches INCLUDE REGEX "_bench\\.cpp$")
  set(fuzzers ${all})
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cpp$")
  list(FILTER all EXCLUDE REGEX "_(test|bench|fuzz)\\.cpp$")
  file(GLOB_RECURSE cuda CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cu")
  set(p AXIAL_${AXIAL_LAYER})
  set_property(GLOBAL APPEND PROPERTY ${p}_SOURCES ${all})
  set_property(GLOBAL APPEND PROPERTY ${p}_TEST_SOURCES ${tests})
  set_property(GLOBAL APPEND PROPERTY ${p}_BENCH_SOURCES ${benches})
  set_property(GLOBAL APPEND PROPERTY ${p}_FUZZ_SOURCES ${fuzzers})
  set_property(GLOBAL APPEND PROPERTY ${p}_CUDA_SOURCES ${cuda})
  if(tests OR all OR fuzzers)
    set_property(GLOBAL APPEND PROPERTY ${p}_LINKS ${ARG_LINK})
  endif()
  if(ARG_REGISTER)
    set_property(GLOBAL APPEND PROPERTY ${p}_REGISTERED ${unit})
  endif()
endfunction()

# The table of a layer: register_all(Registry&) calls register_<unit>(Registry&) of each unit, by name.
function(_axial_registry layer units type header)
  set(declarations "")
  set(calls "")
  foreach(unit IN LISTS units)
    string(APPEND declarations "void register_${unit}(${type}& registry);\n")
    string(APPEND calls "  register_${unit}(registry);\n")
  endforeach()
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/axial/${layer}/register_all.cpp" CONTENT
"// Generated from the folders of axial/${layer}.
#include \"${header}\"
namespace axial::${layer} {
${declarations}
void register_all(${type}& registry) {
${calls}}
}  // namespace axial::${layer}
")
endfunction()

function(_axial_torch target)
  if(AXIAL_LAYER_TORCH)
    # Installed, the target is made by AxialConfig.cmake from the consumer's own torch.
    target_link_libraries(${target} PUBLIC $<BUILD_INTERFACE:axial_torch> $<INSTALL_INTERFACE:axial::torch>)
    target_precompile_headers(${target} REUSE_FROM axial_pch)
  endif()
endfunction()

function(_axial_program program sources layer_target)
  add_executable(${program} ${sources})
  target_link_libraries(${program} PRIVATE ${layer_target} axial_warnings)
  if(AXIAL_LAYER_TORCH)
    target_link_libraries(${program} PRIVATE axial_testing)
  endif()
  _axial_torch(${program})
endfunction()
