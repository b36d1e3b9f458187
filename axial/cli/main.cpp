// SPDX-License-Identifier: Apache-2.0
// The program `axial`; everything is in the commands.
#include <malloc.h>

#include "axial/cli/common/registry.h"

namespace {

// A step allocates what the step before it freed. glibc would give every block of 32 MB and more back to the
// system, which clears it anew at the next step: a tenth of the time of a step, and more for long rows.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kBlocks = 1 << 30, kTop = 0x7fffffff;
  mallopt(M_MMAP_THRESHOLD, kBlocks);
  mallopt(M_TRIM_THRESHOLD, kTop);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  return axial::cli::run_program(argc, argv);
}
