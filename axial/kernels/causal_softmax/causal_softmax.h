// SPDX-License-Identifier: Apache-2.0
// Softmax over a stripe of causal attention scores, forward and backward, between two matrix products.
// Called by ops/attention, which owns the products and the walk over stripes.
//
// Row r is the query at position first_query + r of its segment; column c is the key at position c.
// The logit is scores * scale + slope * (c - query) for c <= query (ALiBi; slope 0: none), -inf above.
#pragma once

#include <cstdint>

#include "axial/core/check/status.h"

namespace axial::kernels {

/// A stripe of scores [rows, cols] with row stride `ld` (elements); T is float or double.
template <class T>
struct CausalStripe {
  T* scores = nullptr;
  int64_t ld = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t first_query = 0;
  T scale = 1;
  T slope = 0;
};

/// Turn scores into probabilities in place (0 above the diagonal) and write log-sum-exp per row [rows].
Status causal_softmax(const CausalStripe<float>& stripe, float* log_sum_exp);
Status causal_softmax(const CausalStripe<double>& stripe, double* log_sum_exp);

/// Turn scores into the same probabilities again, from the saved log-sum-exp.
Status causal_probabilities(const CausalStripe<float>& stripe, const float* log_sum_exp);
Status causal_probabilities(const CausalStripe<double>& stripe, const double* log_sum_exp);

/// grad_scores = probabilities * (grad_probabilities - delta[row]) * scale, in place in
/// `grad_probabilities` (same shape and stride as the stripe, whose `scores` hold probabilities).
Status causal_softmax_backward(const CausalStripe<float>& stripe, const float* delta,
                               float* grad_probabilities);
Status causal_softmax_backward(const CausalStripe<double>& stripe, const double* delta,
                               double* grad_probabilities);

}  // namespace axial::kernels
