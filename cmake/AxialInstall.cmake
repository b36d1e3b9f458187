# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where: headers, libraries, the program, and the package that
# find_package(Axial) finds. A wheel (SKBUILD) holds libraries and program only, see AxialPython.cmake.
if(SKBUILD)
  return()
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(AXIAL_CMAKE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/Axial")

get_property(AXIAL_INSTALLED_LAYERS GLOBAL PROPERTY AXIAL_LAYERS)
list(REMOVE_ITEM AXIAL_INSTALLED_LAYERS testing)  # for this project's tests only
set(AXIAL_INSTALLED_TARGETS ${AXIAL_INSTALLED_LAYERS})
list(TRANSFORM AXIAL_INSTALLED_TARGETS PREPEND axial_)
set_target_properties(axial_flags PROPERTIES EXPORT_NAME flags)
install(TARGETS axial_flags ${AXIAL_INSTALLED_TARGETS} EXPORT AxialTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET axial)
  install(TARGETS axial RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/axial/" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/axial
  FILES_MATCHING PATTERN "*.h" PATTERN testing EXCLUDE)
install(EXPORT AxialTargets NAMESPACE axial:: DESTINATION ${AXIAL_CMAKE_DIR})

configure_package_config_file(cmake/AxialConfig.cmake.in "${PROJECT_BINARY_DIR}/AxialConfig.cmake"
  INSTALL_DESTINATION ${AXIAL_CMAKE_DIR})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/AxialConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/AxialConfig.cmake" "${PROJECT_BINARY_DIR}/AxialConfigVersion.cmake"
  cmake/AxialTorch.cmake cmake/torch_facts.py DESTINATION ${AXIAL_CMAKE_DIR})
