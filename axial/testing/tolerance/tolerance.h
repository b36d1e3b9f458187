// SPDX-License-Identifier: Apache-2.0
// How tests of torch layers judge numbers: never a bare tolerance, but the error of the plain
// formula in the same precision, or a relative error with a stated size.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace axial::testing {

/// What a comparison found; use as `EXPECT_TRUE(v.ok) << v.text`.
struct Verdict {
  bool ok = true;
  std::string text;
};

/// Relative error of one rounding to nearest: 2^-53, 2^-24, 2^-8 (bf16), 2^-11 (fp16).
double rounding(at::ScalarType dtype);

/// |actual - truth| / |truth| in the 2-norm, in fp64; the plain norm of actual where truth is zero.
double relative_l2(const at::Tensor& actual, const at::Tensor& truth);

/// Cosine of the angle between the two as vectors, in fp64; 1 when both are zero.
double cosine(const at::Tensor& actual, const at::Tensor& truth);

/// The 2x rule: max |actual - truth| <= 2 max |plain - truth| + roundings * rounding(dtype) * size, where
/// size is the larger of max |truth| and `terms`, the size of the terms of a sum that may cancel.
/// `truth` is fp64; `plain` is the plain formula in the precision under test. Shapes must be equal, and
/// where truth is not finite actual must be the same infinity or NaN.
Verdict within_twice(const at::Tensor& actual, const at::Tensor& plain, const at::Tensor& truth,
                     double roundings = 1, double terms = 0);

/// Every element within atol + rtol * |truth|; the text names the worst.
Verdict close(const at::Tensor& actual, const at::Tensor& truth, double rtol, double atol);

/// Same shape, dtype and bits.
Verdict same_bits(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace axial::testing
