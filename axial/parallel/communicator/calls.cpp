// SPDX-License-Identifier: Apache-2.0
// The collectives of Communicator: argument checks, byte counts, and the cutting and joining along dims
// around flat transports.
//
// Bytes are those of the usual algorithms: a rank of a group of n sends 2 (n - 1) / n of the tensor in an
// all_reduce, (n - 1) / n in a reduce_scatter, what goes to others in an all_to_all, n - 1 times its piece
// in an all_gather.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "axial/ops/common/memory_count.h"
#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "communicator";

int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

// "[4, 2] Float": what a comparison of calls says of a tensor.
std::string in_words(const at::Tensor& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.sizes(), ", "), c10::toString(tensor.scalar_type()));
}

const char* in_words(ReduceOp op) { return op == ReduceOp::kSum ? "sum" : "max"; }

int64_t checked_dim(const char* op, const at::Tensor& tensor, int64_t dim) {
  AXIAL_CHECK(-tensor.dim() <= dim && dim < tensor.dim(), kOp, "dim of {}; expected one of {} dims, got {}",
              op, tensor.dim(), dim);
  return dim < 0 ? dim + tensor.dim() : dim;
}

void check_divisible(const char* op, const at::Tensor& tensor, int64_t dim, int64_t size) {
  AXIAL_CHECK(tensor.size(dim) % size == 0, kOp, "dim {} of {}; expected a multiple of {} ranks, got {}", dim,
              op, size, tensor.size(dim));
}

void check_peer(const char* op, int64_t peer, const Channel& channel, const Group& group) {
  AXIAL_CHECK(0 <= peer && peer < group.size() && peer != group.rank, kOp,
              "peer of {}; expected another rank of a group of {}, got {} at rank {}", op, group.size(), peer,
              group.rank);
  AXIAL_CHECK(0 <= channel.number && channel.number < kChannels, kOp,
              "channel of {}; expected one of [0, {}), got {}", op, kChannels, channel.number);
}

// One size per rank, none negative; of this rank's piece and of all where they are known.
void check_sizes(const char* op, const Sizes& sizes, const Group& group, int64_t own, int64_t total) {
  AXIAL_CHECK(static_cast<int64_t>(sizes.size()) == group.size(), kOp,
              "sizes of {}; expected one for each of {} ranks, got {}", op, group.size(), sizes.size());
  for (const int64_t size : sizes) {
    AXIAL_CHECK(size >= 0, kOp, "sizes of {}; expected none below 0, got [{}]", op, fmt::join(sizes, ", "));
  }
  const int64_t sum = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  AXIAL_CHECK(own < 0 || sizes[static_cast<size_t>(group.rank)] == own, kOp,
              "sizes [{}] of {}; expected {} for rank {} of the group", fmt::join(sizes, ", "), op, own,
              group.rank);
  AXIAL_CHECK(total < 0 || sum == total, kOp, "sizes [{}] of {}; expected a sum of {}, got {}",
              fmt::join(sizes, ", "), op, total, sum);
}

bool is_narrow(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}

int64_t largest(const Sizes& sizes) { return *std::max_element(sizes.begin(), sizes.end()); }

// `tensor` lengthened along `dim` to `size` with zeros.
at::Tensor padded(const at::Tensor& tensor, int64_t dim, int64_t size) {
  if (tensor.size(dim) == size) return tensor;
  const ops::MemoryScope scope(ops::MemoryUse::kCommunication);
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape[static_cast<size_t>(dim)] = size - tensor.size(dim);
  return at::cat({tensor, at::zeros(shape, tensor.options())}, dim);
}

// The pieces of `tensor` along `dim`, each lengthened to the largest, one after the other in dim 0; a view
// where they lie so.
at::Tensor stacked(const at::Tensor& tensor, int64_t dim, const Sizes& sizes) {
  const ops::MemoryScope scope(ops::MemoryUse::kCommunication);
  const bool even = std::all_of(sizes.begin(), sizes.end(), [&](int64_t size) { return size == sizes[0]; });
  if (dim == 0 && even && tensor.is_contiguous()) {
    return tensor.unflatten(0, {static_cast<int64_t>(sizes.size()), sizes[0]});
  }
  std::vector<at::Tensor> pieces = tensor.split_with_sizes(sizes, dim);
  for (at::Tensor& piece : pieces) piece = padded(piece, dim, largest(sizes));
  return at::stack(pieces);
}

}  // namespace

Pending Communicator::start_all_reduce_in_place(at::Tensor tensor, const Axes& axes, ReduceOp op) {
  const Group& group = group_of(axes);
  AXIAL_CHECK(tensor.is_contiguous(), kOp, "tensor of all_reduce_in_place; expected a contiguous one");
  const bool widen = is_narrow(tensor) && group.size() > 1 && transport_->sums_in_own_dtype();
  const at::Tensor buffer = widen ? tensor.to(at::kFloat) : tensor;
  count("all_reduce", group, 2 * bytes_of(buffer) * (group.size() - 1) / group.size());
  const auto finish = [tensor, buffer, widen] { return widen ? tensor.copy_(buffer) : tensor; };
  if (group.size() == 1) return Pending(finish);
  return launch(
      {.op = "all_reduce", .details = fmt::format("{} of {}", in_words(op), in_words(tensor))}, group,
      [&] { return transport_->all_reduce(buffer, group, op); }, finish);
}

Pending Communicator::start_all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op) {
  if (group_of(axes).size() == 1) return start_all_reduce_in_place(tensor.contiguous(), axes, op);
  return start_all_reduce_in_place(tensor.clone(at::MemoryFormat::Contiguous), axes, op);
}

at::Tensor Communicator::all_reduce(const at::Tensor& tensor, const Axes& axes, ReduceOp op) {
  return start_all_reduce(tensor, axes, op).wait();
}

Pending Communicator::start_all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes, Sizes sizes) {
  const Group& group = group_of(axes);
  dim = checked_dim("all_gather", tensor, dim);
  if (sizes.empty()) sizes.assign(static_cast<size_t>(group.size()), tensor.size(dim));
  check_sizes("all_gather", sizes, group, tensor.size(dim), -1);
  if (group.size() == 1) {
    count("all_gather", group, 0);
    return Pending([tensor] { return tensor; });
  }
  const at::Tensor in = padded(tensor, dim, largest(sizes)).contiguous();
  count("all_gather", group, bytes_of(in) * (group.size() - 1),
        (bytes_of(in) - bytes_of(tensor)) * (group.size() - 1));
  std::vector<int64_t> shape = in.sizes().vec();
  shape.insert(shape.begin(), group.size());
  const at::Tensor out = at::empty(shape, in.options());
  const auto start = [&] { return transport_->all_gather(out.view({-1}), in.view({-1}), group); };
  const std::string details =
      fmt::format("{} along dim {} in sizes [{}]", in_words(in), dim, fmt::join(sizes, ", "));
  return launch({.op = "all_gather", .details = details}, group, start, [in, out, dim, sizes] {
    if (dim == 0 && largest(sizes) * static_cast<int64_t>(sizes.size()) ==
                        std::accumulate(sizes.begin(), sizes.end(), int64_t{0})) {
      return out.flatten(0, 1);
    }
    std::vector<at::Tensor> pieces = out.unbind(0);
    for (size_t r = 0; r < pieces.size(); ++r) pieces[r] = pieces[r].narrow(dim, 0, sizes[r]);
    return at::cat(pieces, dim);
  });
}

at::Tensor Communicator::all_gather(const at::Tensor& tensor, int64_t dim, const Axes& axes, Sizes sizes) {
  return start_all_gather(tensor, dim, axes, std::move(sizes)).wait();
}

Pending Communicator::start_reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes,
                                           ReduceOp op, Sizes sizes) {
  const Group& group = group_of(axes);
  dim = checked_dim("reduce_scatter", tensor, dim);
  if (sizes.empty()) {
    check_divisible("reduce_scatter", tensor, dim, group.size());
    sizes.assign(static_cast<size_t>(group.size()), tensor.size(dim) / group.size());
  }
  return scatter(tensor, dim, group, op, std::move(sizes), false);
}

Pending Communicator::start_reduce_scatter_overwriting(const at::Tensor& tensor, int64_t dim,
                                                       const Axes& axes, ReduceOp op) {
  const Group& group = group_of(axes);
  dim = checked_dim("reduce_scatter", tensor, dim);
  check_divisible("reduce_scatter", tensor, dim, group.size());
  Sizes sizes(static_cast<size_t>(group.size()), tensor.size(dim) / group.size());
  return scatter(tensor, dim, group, op, std::move(sizes), true);
}

Pending Communicator::scatter(const at::Tensor& tensor, int64_t dim, const Group& group, ReduceOp op,
                              Sizes sizes, bool overwrites) {
  check_sizes("reduce_scatter", sizes, group, -1, tensor.size(dim));
  if (group.size() == 1) {
    count("reduce_scatter", group, 0);
    return Pending([tensor] { return tensor; });
  }
  const bool widen = is_narrow(tensor) && transport_->sums_in_own_dtype();
  const at::Tensor source = widen ? tensor.to(at::kFloat) : tensor;
  at::Tensor in = stacked(source, dim, sizes);
  if (!overwrites && in.is_alias_of(tensor)) in = in.clone();
  count("reduce_scatter", group, bytes_of(in) * (group.size() - 1) / group.size(),
        (bytes_of(in) - bytes_of(source)) * (group.size() - 1) / group.size());
  const at::Tensor out = at::empty(in.sizes().slice(1), in.options());
  const auto start = [&] { return transport_->reduce_scatter(out.view({-1}), in.view({-1}), group, op); };
  const int64_t own = sizes[static_cast<size_t>(group.rank)];
  const std::string details = fmt::format("{} of {} along dim {} in sizes [{}]", in_words(op),
                                          in_words(tensor), dim, fmt::join(sizes, ", "));
  return launch({.op = "reduce_scatter", .details = details}, group, start,
                [in, out, dim, own, dtype = tensor.scalar_type()] {
                  return out.narrow(dim, 0, own).to(dtype).contiguous();
                });
}

at::Tensor Communicator::reduce_scatter(const at::Tensor& tensor, int64_t dim, const Axes& axes, ReduceOp op,
                                        Sizes sizes) {
  return start_reduce_scatter(tensor, dim, axes, op, std::move(sizes)).wait();
}

Pending Communicator::start_all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim,
                                       const Axes& axes, Sizes split_sizes, Sizes join_sizes) {
  const Group& group = group_of(axes);
  const auto n = static_cast<size_t>(group.size());
  split_dim = checked_dim("all_to_all", tensor, split_dim);
  join_dim = checked_dim("all_to_all", tensor, join_dim);
  if (split_sizes.empty()) {
    check_divisible("all_to_all", tensor, split_dim, group.size());
    split_sizes.assign(n, tensor.size(split_dim) / group.size());
  }
  check_sizes("all_to_all", split_sizes, group, -1, tensor.size(split_dim));
  const auto me = static_cast<size_t>(group.rank);
  if (join_sizes.empty())
    join_sizes.assign(n, split_dim == join_dim ? split_sizes[me] : tensor.size(join_dim));
  check_sizes("all_to_all", join_sizes, group,
              split_dim == join_dim ? split_sizes[me] : tensor.size(join_dim), -1);
  if (n == 1) {
    count("all_to_all", group, 0);
    return Pending([tensor] { return tensor; });
  }
  std::vector<at::Tensor> pieces = tensor.split_with_sizes(split_sizes, split_dim);
  std::vector<std::vector<int64_t>> shapes(n, pieces[me].sizes().vec());
  std::vector<int64_t> in_sizes, out_sizes;
  for (size_t r = 0; r < n; ++r) {
    shapes[r][static_cast<size_t>(join_dim)] = join_sizes[r];
    in_sizes.push_back(pieces[r].numel());
    out_sizes.push_back(c10::multiply_integers(shapes[r]));
    pieces[r] = pieces[r].reshape({-1});
  }
  count("all_to_all", group, bytes_of(tensor) - bytes_of(pieces[me]));
  const at::Tensor in = at::cat(pieces);
  const at::Tensor out =
      at::empty({std::accumulate(out_sizes.begin(), out_sizes.end(), int64_t{0})}, in.options());
  const auto start = [&] { return transport_->all_to_all(out, in, out_sizes, in_sizes, group); };
  const CallInWords call{.op = "all_to_all",
                         .details = fmt::format("{} along dims {} and {}",
                                                c10::toString(tensor.scalar_type()), split_dim, join_dim),
                         .to_each = in_sizes,
                         .from_each = out_sizes};
  return launch(call, group, start, [in, out, shapes, out_sizes, join_dim] {
    std::vector<at::Tensor> joined = out.split_with_sizes(out_sizes);
    for (size_t r = 0; r < joined.size(); ++r) joined[r] = joined[r].view(shapes[r]);
    return at::cat(joined, join_dim);
  });
}

at::Tensor Communicator::all_to_all(const at::Tensor& tensor, int64_t split_dim, int64_t join_dim,
                                    const Axes& axes, Sizes split_sizes, Sizes join_sizes) {
  return start_all_to_all(tensor, split_dim, join_dim, axes, std::move(split_sizes), std::move(join_sizes))
      .wait();
}

Pending Communicator::start_broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes) {
  const Group& group = group_of(axes);
  AXIAL_CHECK(0 <= root && root < group.size(), kOp, "root of broadcast; expected one of [0, {}), got {}",
              group.size(), root);
  count("broadcast", group, root == group.rank ? bytes_of(tensor) * (group.size() - 1) : 0);
  if (group.size() == 1) return Pending([tensor] { return tensor; });
  const at::Tensor buffer = tensor.clone(at::MemoryFormat::Contiguous);
  const auto start = [&] { return transport_->broadcast(buffer, root, group); };
  return launch({.op = "broadcast", .details = fmt::format("{} from place {}", in_words(tensor), root)},
                group, start, [buffer] { return buffer; });
}

at::Tensor Communicator::broadcast(const at::Tensor& tensor, int64_t root, const Axes& axes) {
  return start_broadcast(tensor, root, axes).wait();
}

Pending Communicator::start_send(const at::Tensor& tensor, int64_t peer, const Axes& axes, Channel channel) {
  const Group& group = group_of(axes);
  check_peer("send", peer, channel, group);
  count(channel.control ? "control" : "send", group, bytes_of(tensor));
  const at::Tensor buffer = tensor.contiguous();
  const CallInWords call{.op = "send", .details = in_words(buffer), .peer = peer, .channel = channel.number};
  return launch(
      call, group, [&] { return transport_->send(buffer, peer, group, channel.number); },
      [buffer] { return buffer; });
}

Pending Communicator::start_recv(at::Tensor into, int64_t peer, const Axes& axes, Channel channel) {
  const Group& group = group_of(axes);
  check_peer("recv", peer, channel, group);
  AXIAL_CHECK(into.is_contiguous(), kOp, "tensor of recv; expected a contiguous one");
  count(channel.control ? "control" : "recv", group, 0);
  const CallInWords call{.op = "recv", .details = in_words(into), .peer = peer, .channel = channel.number};
  return launch(
      call, group, [&] { return transport_->recv(into, peer, group, channel.number); },
      [into] { return into; });
}

void Communicator::send(const at::Tensor& tensor, int64_t peer, const Axes& axes) {
  start_send(tensor, peer, axes).wait();
}

void Communicator::recv(at::Tensor& into, int64_t peer, const Axes& axes) {
  start_recv(into, peer, axes).wait();
}

Pending Communicator::start_barrier(const Axes& axes) {
  const Group& group = group_of(axes);
  count("control", group, 0);
  const auto finish = [] { return at::Tensor(); };
  if (group.size() == 1) return Pending(finish);
  return launch(
      {.op = "barrier"}, group, [&] { return transport_->barrier(group); }, finish);
}

void Communicator::barrier(const Axes& axes) { start_barrier(axes).wait(); }

}  // namespace axial::parallel
