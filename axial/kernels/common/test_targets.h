// SPDX-License-Identifier: Apache-2.0
// For kernel tests only: run a test for every instruction set that Highway compiled and this CPU has,
// not only for the best one.
#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

namespace axial::kernels::test {

/// Call body() once per target, with Highway dispatching to that target; then restore the best one.
template <class Body>
void for_each_target(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    body();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
}

}  // namespace axial::kernels::test
