# SPDX-License-Identifier: Apache-2.0
# The Python package `axial`: python/axial plus the libraries, importable from <build>/python in place
# and packed by `pip install .` (scikit-build-core, which sets SKBUILD).
if(NOT AXIAL_TORCH)
  return()
endif()
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/python/_build.py" CONTENT
"# SPDX-License-Identifier: Apache-2.0
\"\"\"Facts of the build; generated.\"\"\"

VERSION = \"${PROJECT_VERSION}\"
TORCH_VERSION = \"${AXIAL_TORCH_VERSION}\"
")

if(SKBUILD)
  get_property(layers GLOBAL PROPERTY AXIAL_LAYERS)
  list(REMOVE_ITEM layers testing)
  list(TRANSFORM layers PREPEND axial_)
  install(TARGETS ${layers} LIBRARY DESTINATION axial/lib COMPONENT python)
  install(TARGETS axial RUNTIME DESTINATION axial/bin COMPONENT python)
  install(FILES "${PROJECT_BINARY_DIR}/generated/python/_build.py" DESTINATION axial COMPONENT python)
  return()
endif()

set(package "${PROJECT_BINARY_DIR}/python/axial")
file(MAKE_DIRECTORY "${package}")
file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/python/axial/*.py"
  "${PROJECT_SOURCE_DIR}/python/axial/py.typed")
foreach(source IN LISTS sources ITEMS "${PROJECT_BINARY_DIR}/generated/python/_build.py")
  get_filename_component(name "${source}" NAME)
  file(CREATE_LINK "${source}" "${package}/${name}" SYMBOLIC)
endforeach()
foreach(folder lib bin)
  file(CREATE_LINK "${PROJECT_BINARY_DIR}/${folder}" "${package}/${folder}" SYMBOLIC)
endforeach()
foreach(folder IN ITEMS compat tools)
  file(CREATE_LINK "${PROJECT_SOURCE_DIR}/python/axial/${folder}" "${package}/${folder}" SYMBOLIC)
endforeach()
