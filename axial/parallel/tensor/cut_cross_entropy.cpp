// SPDX-License-Identifier: Apache-2.0
// Cross-entropy over logits whose columns are cut: l = log sum_r exp(l_r) from the ranks' own log-sum-exps
// l_r, and the label's logit from the one rank that has it. Logits never travel and are read once.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "axial/core/check/check.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/tensor/vocabulary.h"

namespace axial::parallel {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Which labels are of these tokens, as 0 and 1, and their columns (0 where they are not). Arithmetic, not
// where or masked_fill: these have no Meta kernels everywhere.
struct Columns {
  at::Tensor here, place;
};

Columns columns_of(const at::Tensor& labels, Interval tokens) {
  const at::Tensor here = labels.ge(tokens.begin).bitwise_and_(labels.lt(tokens.end));
  return {here, (labels - tokens.begin).mul_(here).unsqueeze(1)};
}

struct CutCrossEntropy : torch::autograd::Function<CutCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, const at::Tensor& labels,
                            int64_t begin, int64_t end, Communicator* ranks) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const CutRows rows = cut_rows(logits, labels, {begin, end}, *ranks);
    ctx->save_for_backward({logits, labels, rows.log_sum_exp});
    ctx->saved_data["begin"] = begin;
    ctx->saved_data["end"] = end;
    // As ops::cross_entropy: summed in fp64, so that millions of rows lose nothing.
    return rows.log_likelihood.sum(at::kDouble).neg_().to(rows.log_likelihood.scalar_type());
  }

  // softmax - one_hot(label), of the columns here; nothing for ignored rows.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &logits = saved[0], &labels = saved[1], &log_sum_exp = saved[2];
    ops::refuse_second_order("cross_entropy", {grads[0], logits});
    const Columns columns =
        columns_of(labels, {ctx->saved_data["begin"].toInt(), ctx->saved_data["end"].toInt()});
    // One copy, also of 16-bit logits.
    at::Tensor grad = logits.to(log_sum_exp.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    grad.sub_(log_sum_exp.unsqueeze(1)).exp_();
    grad.scatter_add_(1, columns.place, columns.here.to(grad.scalar_type()).neg_().unsqueeze(1));
    grad.mul_((labels.ne(ops::kIgnoreLabel) * grads[0]).to(grad.scalar_type()).unsqueeze(1));
    return {grad.to(logits.scalar_type()), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

CutRows cut_rows(const at::Tensor& logits, const at::Tensor& labels, Interval tokens, Communicator& ranks) {
  // All columns on every rank would be counted once per rank: a loss too large by log(ranks).
  AXIAL_CHECK(logits.dim() == 2 && logits.size(1) == tokens.size(), "tensor",
              "logits of a cut vocabulary; expected [rows, {}], this rank's columns, got [{}]", tokens.size(),
              fmt::join(logits.sizes(), ", "));
  const Axes axes{kTensorAxis};
  const at::NoGradGuard no_grad;
  const at::Tensor own = ops::log_sum_exp(logits);
  const Columns columns = columns_of(labels, tokens);
  const at::Tensor label_logits =
      logits.gather(1, columns.place).squeeze(1).to(own.scalar_type()) * columns.here;
  const at::Tensor largest = ranks.all_reduce(own, axes, ReduceOp::kMax);
  const at::Tensor sums =
      ranks.all_reduce(at::stack({(own - largest).exp_(), label_logits}), axes, ReduceOp::kSum);
  at::Tensor log_sum_exp = sums[0].log().add_(largest);
  const at::Tensor counts = labels.ne(ops::kIgnoreLabel);
  return {log_sum_exp, (sums[1] - log_sum_exp).mul_(counts)};
}

at::Tensor cut_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, Interval tokens,
                             Communicator& ranks) {
  return CutCrossEntropy::apply(logits, labels, tokens.begin, tokens.end, &ranks);
}

}  // namespace axial::parallel
