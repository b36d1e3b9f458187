# SPDX-License-Identifier: Apache-2.0
# One precompiled header for all layers that use torch: it takes a file from about 10 s to under 4 s.
set(AXIAL_PCH_SOURCE "${PROJECT_BINARY_DIR}/pch/pch.cpp")
file(WRITE "${AXIAL_PCH_SOURCE}.new" "// Carries the precompiled header.\n")
file(COPY_FILE "${AXIAL_PCH_SOURCE}.new" "${AXIAL_PCH_SOURCE}" ONLY_IF_DIFFERENT)
add_library(axial_pch OBJECT "${AXIAL_PCH_SOURCE}")
target_link_libraries(axial_pch PRIVATE axial_torch axial_flags axial_warnings)
target_precompile_headers(axial_pch PRIVATE "${CMAKE_CURRENT_LIST_DIR}/torch_pch.h")
