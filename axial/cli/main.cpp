// SPDX-License-Identifier: Apache-2.0
// The program `axial`; everything is in the commands.
#include "axial/cli/common/registry.h"

int main(int argc, char** argv) { return axial::cli::run_program(argc, argv); }
