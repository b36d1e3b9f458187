// SPDX-License-Identifier: Apache-2.0
// Step s of r: compute with the block of rank (own - s), while it goes on to the next rank and the block of
// rank (own - s - 1) arrives. Backward, the sums of dK and dV for a block start at the first rank after its
// owner, follow it, each rank adding its share, and reach the owner after the last: it adds its own share.
#include "axial/parallel/sequence_attention/ring.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "axial/ops/attention/partial.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/sequence_attention/pair_bits.h"

namespace axial::parallel::detail {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "sequence_attention";

// Neighbours on the ring. Blocks of no elements are not sent: both ends know their size.
class Ring {
 public:
  explicit Ring(const RingCall& call) : call_(call), size_(call.sight.ring.num_ranks()) {}

  int64_t size() const { return size_; }
  int64_t owner(int64_t step) const { return (call_.sight.rank - step % size_ + size_) % size_; }
  Pending send(const at::Tensor& block) const {
    if (block.numel() == 0) return {};
    return call_.ranks->start_send(block, (call_.sight.rank + 1) % size_, {"ring"});
  }
  Pending receive(const at::Tensor& into) const {
    if (into.numel() == 0) return {};
    return call_.ranks->start_recv(into, owner(1), {"ring"});
  }
  // A block [2, B, L', G, D] of that owner.
  at::Tensor empty_block(const at::Tensor& own, int64_t owner, at::ScalarType dtype) const {
    std::vector<int64_t> shape = own.sizes().vec();
    shape[2] = call_.sight.ring.local_size(owner);
    return at::empty(shape, own.options().dtype(dtype).requires_grad(false));
  }

 private:
  const RingCall& call_;
  int64_t size_;
};

void finish(Pending& pending) {
  if (pending.valid()) pending.wait();
}

// The blocks of keys and values on their way: one at hand, one arriving.
class Blocks {
 public:
  Blocks(const Ring& ring, const at::Tensor& own) : ring_(ring), now_(own.contiguous()) {}

  const at::Tensor& now() const { return now_; }
  void start_next(int64_t step) {
    if (step + 1 == ring_.size()) return;
    next_ = ring_.empty_block(now_, ring_.owner(step + 1), now_.scalar_type());
    sent_ = ring_.send(now_);
    received_ = ring_.receive(next_);
  }
  void finish_next() {
    finish(received_);
    finish(sent_);
    now_ = std::move(next_);
  }

 private:
  const Ring& ring_;
  at::Tensor now_, next_;
  Pending sent_, received_;
};

// Places [begin, begin + size) of a dim, by one call of the dispatcher where narrow() makes three: a ring of
// a hundred ranks asks for millions.
at::Tensor places(const at::Tensor& x, int64_t dim, int64_t begin, int64_t size) {
  c10::DimVector sizes(x.sizes());
  sizes[static_cast<size_t>(dim)] = size;
  return x.as_strided(sizes, x.strides(), x.storage_offset() + begin * x.stride(dim));
}

ops::AttentionPartial rows_of(const ops::AttentionPartial& all, const Piece& piece) {
  return {places(all.out, 1, piece.query_at, piece.queries.size()),
          places(all.statistics, 2, piece.query_at, piece.queries.size())};
}

at::Tensor rows_of(const at::Tensor& q, const Piece& piece) {
  return places(q, 1, piece.query_at, piece.queries.size());
}

// Keys (which = 0) or values (1) of the piece in a block.
at::Tensor keys_of(const at::Tensor& block, int64_t which, const Piece& piece) {
  c10::DimVector sizes(block.sizes().slice(1));
  sizes[1] = piece.keys.size();
  return block.as_strided(sizes, block.strides().slice(1),
                          block.storage_offset() + which * block.stride(0) + piece.key_at * block.stride(2));
}

// Of all pairs, or written out of bits for these.
ops::OptionalTensor bias_of(const RingCall& call, const at::Tensor& bias, const Piece& piece,
                            const at::Tensor& q) {
  if (call.sight.attended_bits) {
    return bias_of_bits(*call.sight.attended_bits, {piece.query_at, piece.query_at + piece.queries.size()},
                        piece.keys, q);
  }
  if (!bias.defined()) return std::nullopt;
  return places(places(bias, 2, piece.query_at, piece.queries.size()), 3, piece.keys.begin,
                piece.keys.size());
}

ops::AttentionPartial forward_ring(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& bias,
                                   const RingCall& call) {
  const ops::AttentionPartial sum = ops::empty_partial(q);
  if (q.size(2) == 0) return sum;  // no heads here, nor at the other ranks of this ring
  const Ring ring(call);
  Blocks blocks(ring, kv);
  for (int64_t step = 0; step < ring.size(); ++step) {
    blocks.start_next(step);
    for (const Piece& piece : pieces_of(call.sight, ring.owner(step), q)) {
      const ops::KnownPairsScope pairs(piece.pairs);
      ops::merge_partials(
          rows_of(sum, piece),
          ops::attention_partial(rows_of(q, piece), keys_of(blocks.now(), 0, piece),
                                 keys_of(blocks.now(), 1, piece), bias_of(call, bias, piece, q), piece.hidden,
                                 piece.pattern, call.scale));
    }
    if (step + 1 < ring.size()) blocks.finish_next();
  }
  return sum;
}

// Gradients of one rank in the dtype of sums.
struct Gradients {
  at::Tensor dq, dkv, dbias;
};

// One pass of the backward ring.
class BackwardRing {
 public:
  BackwardRing(const RingCall& call, const at::Tensor& grad, const ops::AttentionPartial& merged,
               const at::Tensor& q, const at::Tensor& kv, const at::Tensor& bias, bool wants_bias)
      : call_(call), ring_(call), grad_(grad), merged_(merged), q_(q), bias_(bias), blocks_(ring_, kv) {
    const auto options = q.options().dtype(ops::accumulate_type(q.scalar_type())).requires_grad(false);
    sums_.dq = at::zeros(q.sizes(), options);
    sums_.dkv = at::zeros(kv.sizes(), options);
    if (wants_bias) sums_.dbias = at::zeros(bias.sizes(), options);
  }

  Gradients run() {
    if (q_.size(2) == 0) return sums_;
    const at::AutoDispatchBelowADInplaceOrView below;  // of first order: views need no history
    for (int64_t step = 0; step < ring_.size(); ++step) {
      // What the last rank summed for this block; it was sent before the block after it.
      at::Tensor others = step >= 2 ? empty_sums(step) : at::Tensor();
      Pending arriving = step >= 2 ? ring_.receive(others) : Pending();
      blocks_.start_next(step);
      at::Tensor dkv = step == 0 ? sums_.dkv : empty_sums(step).zero_();
      for (const Piece& piece : pieces_of(call_.sight, ring_.owner(step), q_)) {
        add_piece(piece, dkv);
      }
      finish(arriving);
      if (others.defined()) dkv.add_(others);
      finish(sent_);
      if (step > 0) sent_ = ring_.send(dkv);
      if (step + 1 < ring_.size()) blocks_.finish_next();
    }
    if (ring_.size() > 1) {
      at::Tensor others = empty_sums(0);
      Pending arriving = ring_.receive(others);
      finish(arriving);
      sums_.dkv.add_(others);
    }
    finish(sent_);
    return sums_;
  }

 private:
  at::Tensor empty_sums(int64_t step) const {
    return ring_.empty_block(sums_.dkv, ring_.owner(step), sums_.dkv.scalar_type());
  }

  void add_piece(const Piece& piece, const at::Tensor& dkv) {
    const bool wants_bias = sums_.dbias.defined();
    const ops::KnownPairsScope pairs(piece.pairs);
    const ops::AttentionGradients share = ops::attention_partial_backward(
        rows_of(grad_, piece), rows_of(merged_, piece), rows_of(q_, piece), keys_of(blocks_.now(), 0, piece),
        keys_of(blocks_.now(), 1, piece), bias_of(call_, bias_, piece, q_), piece.hidden, piece.pattern,
        call_.scale, {true, true, true, wants_bias, false});
    rows_of(sums_.dq, piece).add_(share[0]);
    keys_of(dkv, 0, piece).add_(share[1]);
    keys_of(dkv, 1, piece).add_(share[2]);
    if (wants_bias) bias_of(call_, sums_.dbias, piece, q_)->add_(share[3]);
  }

  const RingCall& call_;
  Ring ring_;
  at::Tensor grad_;
  ops::AttentionPartial merged_;
  at::Tensor q_, bias_;
  Blocks blocks_;
  Gradients sums_;
  Pending sent_;  // of sums of dK and dV
};

struct HeldCall : torch::CustomClassHolder {
  explicit HeldCall(RingCall c) : call(std::move(c)) {}
  RingCall call;
};

struct RingAttention : torch::autograd::Function<RingAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& kv,
                            const std::optional<at::Tensor>& bias, const RingCall& call) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor blocks = call.heads.keys_to_heads(kv);
    ops::AttentionResult own;
    ops::AttentionResult& result = call.kept ? *call.kept : own;
    if (!result.out.defined()) {
      const ops::AttentionPartial sum = forward_ring(q, blocks, bias.value_or(at::Tensor()), call);
      result = {sum.out.to(q.scalar_type()), sum.statistics};
    }
    const at::Tensor out = result.out.variable_data();
    ctx->save_for_backward({q, blocks, bias.value_or(at::Tensor()), out, result.statistics});
    auto held = c10::make_intrusive<HeldCall>(call);
    held->call.kept = nullptr;  // may be gone by then
    ctx->saved_data["call"] = at::IValue::make_capsule(std::move(held));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &kv = saved[1], &bias = saved[2];
    // Exchanged keys and values have no graph: what was exchanged has.
    ops::refuse_second_order(kOp,
                             {grads[0], q, bias, kv.detach().set_requires_grad(ctx->needs_input_grad(1))});
    const auto held = c10::dynamic_intrusive_pointer_cast<HeldCall>(ctx->saved_data["call"].toCapsule());
    const ops::AttentionPartial merged{saved[3], saved[4]};
    const at::Tensor grad = grads[0].defined() ? grads[0] : at::zeros_like(saved[3]);
    BackwardRing ring(held->call, grad, merged, q, kv, bias, bias.defined() && ctx->needs_input_grad(2));
    Gradients sums = ring.run();
    const auto rounded = [](const at::Tensor& sum, const at::Tensor& like) {
      return sum.defined() ? sum.to(like.scalar_type()) : at::Tensor();
    };
    const at::Tensor dkv = held->call.heads.key_sums_to_positions(sums.dkv, kv.scalar_type());
    return {rounded(sums.dq, q), dkv, rounded(sums.dbias, bias), at::Tensor()};
  }
};

}  // namespace

at::Tensor ring_attention(const at::Tensor& q, const at::Tensor& kv, const std::optional<at::Tensor>& bias,
                          const RingCall& call) {
  const int64_t size = call.sight.ring.num_ranks(), rank = call.sight.rank;
  if (size > 1) {
    call.ranks->connect({{rank, (rank + 1) % size, 0}, {(rank + size - 1) % size, rank, 0}}, {"ring"},
                        q.device());
  }
  return RingAttention::apply(q, kv, bias, call);
}

}  // namespace axial::parallel::detail
