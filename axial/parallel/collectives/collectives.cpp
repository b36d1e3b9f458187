// SPDX-License-Identifier: Apache-2.0
// Each pair of collectives is one autograd function: what backward does to the gradient is the transpose of
// what forward does to the value.
#include "axial/parallel/collectives/collectives.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <numeric>
#include <utility>

#include "axial/parallel/collectives/point_to_point.h"

namespace axial::parallel {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Map = std::function<at::Tensor(const at::Tensor&)>;

// y = forward(x), dx = backward(dy); linear, so second order is backward's own gradient: the same pair
// turned.
struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Map& forward,
                            const Map& backward) {
    context->saved_data["maps"] = at::IValue::make_capsule(c10::make_intrusive<Maps>(forward, backward));
    at::Tensor y = forward(x);
    return y.is_same(x) ? x.view_as(x) : y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto maps = c10::dynamic_intrusive_pointer_cast<Maps>(context->saved_data["maps"].toCapsule());
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    return {apply_map(grads[0], maps->backward, maps->forward), at::Tensor(), at::Tensor()};
  }

  static at::Tensor apply_map(const at::Tensor& x, const Map& forward, const Map& backward) {
    return Linear::apply(x, forward, backward);
  }

  struct Maps : torch::CustomClassHolder {
    Maps(Map f, Map b) : forward(std::move(f)), backward(std::move(b)) {}
    Map forward, backward;
  };
};

bool is_local(Communicator* ranks, const Axes& axes) {
  return ranks == nullptr || ranks->mesh().group_size(axes) == 1;
}

at::Tensor identity(const at::Tensor& x) { return x; }

// What comes from other ranks is new, even where it is cut from a larger buffer. Autograd must not take it
// for a view, or callers could not add to it in place.
template <class F>
Map received(F call) {
  return [call](const at::Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return call(x);
  };
}

Map sum_over(Communicator* ranks, const Axes& axes) {
  return received([=](const at::Tensor& x) { return ranks->all_reduce(x, axes, ReduceOp::kSum); });
}

Map gathered(Communicator* ranks, int64_t dim, const Axes& axes, const Sizes& sizes) {
  return received([=](const at::Tensor& x) { return ranks->all_gather(x, dim, axes, sizes); });
}

Map sum_scattered(Communicator* ranks, int64_t dim, const Axes& axes, const Sizes& sizes) {
  return received(
      [=](const at::Tensor& x) { return ranks->reduce_scatter(x, dim, axes, ReduceOp::kSum, sizes); });
}

Map sent_on(Communicator* ranks, int64_t by, const Axes& axes) {
  return received([=](const at::Tensor& x) {
    const int64_t n = ranks->mesh().group_size(axes),
                  me = ranks->mesh().group_rank(axes, ranks->mesh().rank());
    const int64_t to = ((me + by) % n + n) % n, from = ((me - by) % n + n) % n;
    if (to == me) return x.clone();
    ranks->connect({{me, to, kShiftChannel}, {from, me, kShiftChannel}}, axes, x.device());
    at::Tensor arrived = at::empty_like(x, at::MemoryFormat::Contiguous);
    Pending sent = ranks->start_send(x, to, axes, {kShiftChannel});
    ranks->start_recv(arrived, from, axes, {kShiftChannel}).wait();
    sent.wait();
    return arrived;
  });
}

Map own_piece(Communicator* ranks, int64_t dim, const Axes& axes, const Sizes& sizes) {
  return [=](const at::Tensor& x) {
    const int64_t n = ranks->mesh().group_size(axes);
    const auto me = static_cast<size_t>(ranks->mesh().group_rank(axes, ranks->mesh().rank()));
    const Sizes pieces = sizes.empty() ? Sizes(static_cast<size_t>(n), x.size(dim) / n) : sizes;
    AXIAL_CHECK(std::accumulate(pieces.begin(), pieces.end(), int64_t{0}) == x.size(dim), "scatter_to",
                "dim {} of {} entries; expected the sum of the pieces [{}]", dim, x.size(dim),
                fmt::join(pieces, ", "));
    return x.narrow(dim,
                    std::accumulate(pieces.begin(), pieces.begin() + static_cast<int64_t>(me), int64_t{0}),
                    pieces[me]);
  };
}

}  // namespace

at::Tensor copy_to(const at::Tensor& x, Communicator* ranks, const Axes& axes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, identity, sum_over(ranks, axes));
}

at::Tensor reduce_from(const at::Tensor& x, Communicator* ranks, const Axes& axes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, sum_over(ranks, axes), identity);
}

at::Tensor gather_from(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                       const Sizes& sizes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, gathered(ranks, dim, axes, sizes), sum_scattered(ranks, dim, axes, sizes));
}

at::Tensor reduce_scatter_to(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                             const Sizes& sizes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, sum_scattered(ranks, dim, axes, sizes), gathered(ranks, dim, axes, sizes));
}

at::Tensor scatter_to(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                      const Sizes& sizes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, own_piece(ranks, dim, axes, sizes), gathered(ranks, dim, axes, sizes));
}

at::Tensor replicate_from(const at::Tensor& x, int64_t dim, Communicator* ranks, const Axes& axes,
                          const Sizes& sizes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, gathered(ranks, dim, axes, sizes), own_piece(ranks, dim, axes, sizes));
}

at::Tensor all_to_all(const at::Tensor& x, int64_t split_dim, int64_t join_dim, Communicator* ranks,
                      const Axes& axes, const Sizes& split_sizes, const Sizes& join_sizes) {
  if (is_local(ranks, axes)) return x;
  const auto there = [=](const at::Tensor& t) {
    return ranks->all_to_all(t, split_dim, join_dim, axes, split_sizes, join_sizes);
  };
  const auto back = [=](const at::Tensor& t) {
    return ranks->all_to_all(t, join_dim, split_dim, axes, join_sizes, split_sizes);
  };
  return Linear::apply(x, Map(there), Map(back));
}

at::Tensor broadcast_from(const at::Tensor& x, int64_t root, Communicator* ranks, const Axes& axes) {
  if (is_local(ranks, axes)) return x;
  const auto there = [=](const at::Tensor& t) { return ranks->broadcast(t, root, axes); };
  const auto back = [=](const at::Tensor& t) {
    const at::Tensor sum = ranks->all_reduce(t, axes, ReduceOp::kSum);
    return ranks->mesh().group_rank(axes, ranks->mesh().rank()) == root ? sum : at::zeros_like(sum);
  };
  return Linear::apply(x, received(there), received(back));
}

at::Tensor shift(const at::Tensor& x, int64_t by, Communicator* ranks, const Axes& axes) {
  if (is_local(ranks, axes)) return x;
  return Linear::apply(x, sent_on(ranks, by, axes), sent_on(ranks, -by, axes));
}

Sizes even_sizes(int64_t total, int64_t parts) {
  AXIAL_CHECK(total >= 0 && parts >= 1, "even_sizes", "expected total >= 0 and parts >= 1, got {} and {}",
              total, parts);
  Sizes sizes(static_cast<size_t>(parts), total / parts);
  for (int64_t i = 0; i < total % parts; ++i) sizes[static_cast<size_t>(i)] += 1;
  return sizes;
}

}  // namespace axial::parallel
