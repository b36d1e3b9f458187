// SPDX-License-Identifier: Apache-2.0
// Exact causal attention per segment without storing its scores.
//
// A task owns one (segment, key/value head) and walks the query heads of its group in stripes of kStripe
// queries: scores by matrix product, softmax in place, output by matrix product. The backward rebuilds
// each stripe from the saved log-sum-exp and accumulates dK and dV of its own segment and head, so tasks
// share nothing and the result does not depend on threads. Products run on views: fp32 and fp64 are
// never copied, 16-bit inputs are widened to fp32 per task. dK and dV are summed transposed, [D, L]: BLAS
// is a third faster at go^T P than at P^T go, whose left matrix is the large one and lies across.
#include "axial/ops/attention/segment_walk.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <vector>

#include "axial/kernels/causal_softmax/causal_softmax.h"

namespace axial::ops::detail {
namespace {

using at::Tensor;
using kernels::CausalStripe;

constexpr int64_t kStripe = 128;

/// One (segment, key/value head): tokens [begin, begin + length).
struct Task {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t group = 0;
};

// Longest segments first, so that threads finish together.
std::vector<Task> tasks_of(const SegmentProblem& p) {
  const int64_t* borders = p.segments.const_data_ptr<int64_t>();
  std::vector<Task> tasks;
  for (int64_t s = 0; s + 1 < p.segments.numel(); ++s) {
    for (int64_t g = 0; borders[s + 1] > borders[s] && g < p.k.size(1); ++g) {
      tasks.push_back({borders[s], borders[s + 1] - borders[s], g});
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.length > b.length; });
  return tasks;
}

// Run body(task, scratch) for every task; scratch [num_scratch * kStripe * longest] is reused by a thread.
template <class Body>
void for_tasks(const SegmentProblem& p, at::ScalarType type, int64_t num_scratch, const Body& body) {
  const std::vector<Task> tasks = tasks_of(p);
  if (tasks.empty()) return;
  const int64_t stripe = std::min(kStripe, tasks[0].length) * tasks[0].length;
  const auto count = static_cast<int64_t>(tasks.size());
  const int64_t workers = std::min<int64_t>(at::get_num_threads(), count);
  at::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    const at::AutoDispatchBelowAutograd below;
    for (int64_t w = first; w < last; ++w) {
      const Tensor scratch = at::empty({num_scratch, stripe}, at::TensorOptions().dtype(type));
      for (int64_t i = w; i < count; i += workers) body(tasks[static_cast<size_t>(i)], scratch);
    }
  });
}

// Rows of one head in the accumulation type: a view where the type is the same.
Tensor rows_of(const Tensor& t, const Task& task, int64_t head, at::ScalarType type) {
  return t.select(1, head).narrow(0, task.begin, task.length).to(type);
}

Tensor matrix(const Tensor& scratch, int64_t which, int64_t rows, int64_t cols) {
  return scratch.select(0, which).narrow(0, 0, rows * cols).view({rows, cols});
}

template <class A>
CausalStripe<A> stripe_of(const Tensor& scores, int64_t first_query, const SegmentProblem& p, int64_t head) {
  const double slope = p.slopes.defined() ? p.slopes.const_data_ptr<double>()[head] : 0.0;
  return {scores.mutable_data_ptr<A>(), scores.size(1),       scores.size(0), scores.size(1), first_query,
          static_cast<A>(p.scale),      static_cast<A>(slope)};
}

// Where products of the accumulation type go: the view itself, or a buffer that is rounded into it at the
// end.
class Target {
 public:
  Target(const Tensor& t, const Task& task, int64_t head, at::ScalarType type)
      : view_(t.select(1, head).narrow(0, task.begin, task.length)),
        sums_(view_.scalar_type() == type ? view_ : at::empty(view_.sizes(), view_.options().dtype(type))) {}
  const Tensor& sums() const { return sums_; }
  void finish() const {
    if (!sums_.is_same(view_)) view_.copy_(sums_);
  }

 private:
  Tensor view_, sums_;
};

template <class A>
void forward_task(const SegmentProblem& p, const Tensor& out, const Tensor& log_sum_exp, const Task& task,
                  const Tensor& scratch) {
  const at::ScalarType type = scratch.scalar_type();
  const Tensor keys = rows_of(p.k, task, task.group, type), values = rows_of(p.v, task, task.group, type);
  const int64_t per_group = p.q.size(1) / p.k.size(1);
  for (int64_t head = task.group * per_group; head < (task.group + 1) * per_group; ++head) {
    const Tensor queries = rows_of(p.q, task, head, type);
    const Target target(out, task, head, type);
    for (int64_t i = 0; i < task.length; i += kStripe) {
      const int64_t rows = std::min(kStripe, task.length - i), cols = i + rows;
      Tensor scores = matrix(scratch, 0, rows, cols);
      at::mm_out(scores, queries.narrow(0, i, rows), keys.narrow(0, 0, cols).t());
      A* lse = log_sum_exp.mutable_data_ptr<A>() + head * log_sum_exp.size(1) + task.begin + i;
      throw_if_failed(kernels::causal_softmax(stripe_of<A>(scores, i, p, head), lse), "segment_attention");
      Tensor result = target.sums().narrow(0, i, rows);
      at::mm_out(result, scores, values.narrow(0, 0, cols));
    }
    target.finish();
  }
}

/// Saved and incoming tensors of the backward, and where its results go.
struct Gradients {
  Tensor out, log_sum_exp, grad_out, grad_q, grad_k, grad_v;
};

template <class A>
void backward_head(const SegmentProblem& p, const Gradients& g, const Task& task, int64_t head,
                   const Tensor& scratch, const Tensor& grad_keys, const Tensor& grad_values) {
  const at::ScalarType type = scratch.scalar_type();
  const Tensor keys = rows_of(p.k, task, task.group, type), values = rows_of(p.v, task, task.group, type);
  const Tensor queries = rows_of(p.q, task, head, type), grads = rows_of(g.grad_out, task, head, type);
  const Tensor delta = at::mul(grads, rows_of(g.out, task, head, type)).sum(1);
  const Target grad_queries(g.grad_q, task, head, type);
  for (int64_t i = 0; i < task.length; i += kStripe) {
    const int64_t rows = std::min(kStripe, task.length - i), cols = i + rows;
    const Tensor q = queries.narrow(0, i, rows), go = grads.narrow(0, i, rows);
    Tensor p_scores = matrix(scratch, 0, rows, cols), d_scores = matrix(scratch, 1, rows, cols);
    at::mm_out(p_scores, q, keys.narrow(0, 0, cols).t());
    const CausalStripe<A> stripe = stripe_of<A>(p_scores, i, p, head);
    const A* lse = g.log_sum_exp.const_data_ptr<A>() + head * g.log_sum_exp.size(1) + task.begin + i;
    throw_if_failed(kernels::causal_probabilities(stripe, lse), "segment_attention");
    grad_values.narrow(1, 0, cols).addmm_(go.t(), p_scores);
    at::mm_out(d_scores, go, values.narrow(0, 0, cols).t());
    throw_if_failed(kernels::causal_softmax_backward(stripe, delta.const_data_ptr<A>() + i,
                                                     d_scores.mutable_data_ptr<A>()),
                    "segment_attention");
    Tensor grad_q = grad_queries.sums().narrow(0, i, rows);
    at::mm_out(grad_q, d_scores, keys.narrow(0, 0, cols));
    grad_keys.narrow(1, 0, cols).addmm_(q.t(), d_scores);
  }
  grad_queries.finish();
}

template <class A>
void backward_task(const SegmentProblem& p, const Gradients& g, const Task& task, const Tensor& scratch) {
  const int64_t per_group = p.q.size(1) / p.k.size(1);
  const Tensor grad_keys = at::zeros({p.k.size(2), task.length}, scratch.options());
  const Tensor grad_values = at::zeros_like(grad_keys);
  for (int64_t head = task.group * per_group; head < (task.group + 1) * per_group; ++head) {
    backward_head<A>(p, g, task, head, scratch, grad_keys, grad_values);
  }
  g.grad_k.select(1, task.group).narrow(0, task.begin, task.length).copy_(grad_keys.t());
  g.grad_v.select(1, task.group).narrow(0, task.begin, task.length).copy_(grad_values.t());
}

}  // namespace

void segment_attention_forward(const SegmentProblem& problem, const Tensor& out, const Tensor& log_sum_exp) {
  const at::ScalarType type = log_sum_exp.scalar_type();
  for_tasks(problem, type, 1, [&](const Task& task, const Tensor& scratch) {
    type == at::kDouble ? forward_task<double>(problem, out, log_sum_exp, task, scratch)
                        : forward_task<float>(problem, out, log_sum_exp, task, scratch);
  });
}

void segment_attention_backward(const SegmentProblem& problem, const Tensor& out, const Tensor& log_sum_exp,
                                const Tensor& grad_out, const Tensor& grad_q, const Tensor& grad_k,
                                const Tensor& grad_v) {
  const Gradients gradients{out, log_sum_exp, grad_out, grad_q, grad_k, grad_v};
  const at::ScalarType type = log_sum_exp.scalar_type();
  for_tasks(problem, type, 2, [&](const Task& task, const Tensor& scratch) {
    type == at::kDouble ? backward_task<double>(problem, gradients, task, scratch)
                        : backward_task<float>(problem, gradients, task, scratch);
  });
}

}  // namespace axial::ops::detail
