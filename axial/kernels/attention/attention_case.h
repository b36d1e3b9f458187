// SPDX-License-Identifier: Apache-2.0
// For tests and benchmarks of attention: a problem with its buffers, by name of shape and of what is added.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "axial/kernels/attention/attention.h"
#include "axial/kernels/common/test_buffers.h"

namespace axial::kernels::test {

/// Dims of a bias that it varies over: 'x' all leading dims, '0' to '5' one of them, 'h', 'q', 'k'; "" for
/// none.
struct AttentionShape {
  std::string name;
  std::vector<int64_t> leading;
  int64_t queries = 1, keys = 1, heads = 1, kv_heads = 1, width = 8;
  std::array<std::string, 2> bias;
  bool has_bias[2] = {false, false};
  bool causal = false;
  int64_t window = 0;   ///< keys before the query's own, 0: all
  int64_t segment = 0;  ///< length of segments, 0: one
  int64_t mask_blocks[2] = {0, 0};
  bool alibi = false;
  bool transposed = false;  ///< rows of a head lie next to each other, else heads of a row
  double masked = 0;        ///< share of the elements of bias 0 that are minus infinity (fp16, bf16: lowest)
  bool first_block_masked = false;
  bool row_masked = false;  ///< query 0 sees nothing through bias 0
  bool ones = false;        ///< incoming gradients are a single 1, expanded, as those of sum() are
};

inline AttentionShape with_bias(AttentionShape shape, std::string first) {
  shape.bias[0] = std::move(first);
  shape.has_bias[0] = true;
  return shape;
}
inline AttentionShape with_bias(AttentionShape shape, std::string first, std::string second) {
  shape = with_bias(std::move(shape), std::move(first));
  shape.bias[1] = std::move(second);
  shape.has_bias[1] = true;
  return shape;
}

/// The buffers of one problem; copies are deep.
class AttentionCase {
 public:
  AttentionCase(AttentionShape shape, DType dtype)
      : shape_(std::move(shape)),
        q_(dtype, random_values("q", leading() * shape_.queries * shape_.heads * shape_.width)),
        k_(dtype, random_values("k", leading() * shape_.keys * shape_.kv_heads * shape_.width)),
        v_(dtype, random_values("v", leading() * shape_.keys * shape_.kv_heads * shape_.width)),
        dout_(dtype, shape_.ones ? std::vector<double>{1} : random_values("dout", q_.size())),
        bias_{make_bias(0, dtype), make_bias(1, dtype)} {
    for (int64_t h = 0; h < shape_.heads; ++h) slopes_.push_back(std::exp2(-static_cast<float>(h + 1) / 2));
    make_intervals();
    make_mask();
  }

  const AttentionShape& shape() const { return shape_; }
  DType dtype() const { return q_.dtype(); }
  AttentionTensor dout() {
    if (!shape_.ones) return tensor(dout_.data(), dtype(), shape_.queries, shape_.heads);
    return {.data = dout_.data(), .dtype = dtype(), .col = 0};
  }
  int64_t query_elements() const { return q_.size(); }
  int64_t key_elements() const { return k_.size(); }
  int64_t bias_elements(int b) const { return bias_[b].size(); }
  int64_t statistics() const { return leading() * shape_.heads * shape_.queries * 2; }
  double key_size() { return largest(k_); }

  AttentionCase widened() const {
    AttentionCase wide = *this;
    for (Buffer* b : {&wide.q_, &wide.k_, &wide.v_, &wide.dout_, &wide.bias_[0], &wide.bias_[1]})
      *b = b->widened();
    // The lowest value of a narrow type is a number of fp64.
    for (Buffer& b : wide.bias_) {
      for (int64_t i = 0; i < b.size(); ++i) {
        if (b.get(i) < -6e4) b.set(i, -INFINITY);
      }
    }
    return wide;
  }

  AttentionInputs inputs() {
    AttentionInputs in;
    in.sizes.num_leading = static_cast<int>(shape_.leading.size());
    for (size_t i = 0; i < shape_.leading.size(); ++i) in.sizes.leading[i] = shape_.leading[i];
    in.sizes.queries = shape_.queries;
    in.sizes.keys = shape_.keys;
    in.sizes.heads = shape_.heads;
    in.sizes.kv_heads = shape_.kv_heads;
    in.sizes.width = shape_.width;
    in.q = tensor(q_.data(), q_.dtype(), shape_.queries, shape_.heads);
    in.k = tensor(k_.data(), k_.dtype(), shape_.keys, shape_.kv_heads);
    in.v = tensor(v_.data(), v_.dtype(), shape_.keys, shape_.kv_heads);
    for (int b = 0; b < 2; ++b) {
      if (shape_.has_bias[b]) in.bias[b] = bias(b, bias_[b].data(), bias_[b].dtype());
    }
    if (shape_.alibi) in.slopes = slopes_.data();
    if (!begin_.empty()) {
      in.key_begin.data = begin_.data();
      in.key_end.data = end_.data();
    }
    if (shape_.mask_blocks[0] > 0)
      in.mask = {shape_.mask_blocks[0], shape_.mask_blocks[1], rows_.data(), columns_.data()};
    in.scale = 1 / std::sqrt(static_cast<double>(shape_.width));
    return in;
  }

  /// [X.., rows, heads, D] in the case's layout.
  AttentionTensor tensor(void* data, DType dtype, int64_t rows, int64_t heads) const {
    AttentionTensor t;
    t.data = data;
    t.dtype = dtype;
    t.row = shape_.transposed ? shape_.width : heads * shape_.width;
    t.head = shape_.transposed ? rows * shape_.width : shape_.width;
    int64_t stride = rows * heads * shape_.width;
    for (size_t i = shape_.leading.size(); i-- > 0;) {
      t.leading[i] = stride;
      stride *= shape_.leading[i];
    }
    return t;
  }

  AttentionBias bias(int b, void* data, DType dtype) const {
    AttentionBias out;
    out.data = data;
    out.dtype = dtype;
    int64_t stride = 1;
    const auto take = [&](char dim, int64_t size) {
      const int64_t mine = varies(b, dim) ? stride : 0;
      if (varies(b, dim)) stride *= size;
      return mine;
    };
    out.key = take('k', shape_.keys);
    out.query = take('q', shape_.queries);
    out.head = take('h', shape_.heads);
    for (size_t i = shape_.leading.size(); i-- > 0;) {
      out.leading[i] = take(static_cast<char>('0' + i), shape_.leading[i]);
    }
    return out;
  }

 private:
  int64_t leading() const {
    int64_t count = 1;
    for (const int64_t n : shape_.leading) count *= n;
    return count;
  }
  bool varies(int b, char dim) const {
    const std::string& dims = shape_.bias[b];
    const bool is_leading = dim >= '0' && dim <= '9';
    return dims.find(dim) != std::string::npos || (is_leading && dims.find('x') != std::string::npos);
  }
  int64_t bias_count(int b) const {
    if (!shape_.has_bias[b]) return 0;
    int64_t count = (varies(b, 'k') ? shape_.keys : 1) * (varies(b, 'q') ? shape_.queries : 1) *
                    (varies(b, 'h') ? shape_.heads : 1);
    for (size_t i = 0; i < shape_.leading.size(); ++i) {
      if (varies(b, static_cast<char>('0' + i))) count *= shape_.leading[i];
    }
    return count;
  }
  Buffer make_bias(int b, DType dtype) const {
    std::vector<double> values = random_values(b == 0 ? "b0" : "b1", bias_count(b));
    const double none = dtype == DType::kF16 ? -65504.0 : dtype == DType::kBF16 ? -0x1.fep127 : -INFINITY;
    const std::vector<double> draws = random_values("mask", bias_count(b));
    for (size_t i = 0; b == 0 && shape_.keys > 0 && i < values.size(); ++i) {
      const int64_t key = static_cast<int64_t>(i) % shape_.keys;
      const bool first = shape_.first_block_masked && varies(0, 'k') && key < 70 && key + 1 < shape_.keys;
      const bool row = shape_.row_masked && varies(0, 'k') &&
                       (!varies(0, 'q') || static_cast<int64_t>(i) / shape_.keys % shape_.queries == 0) &&
                       (varies(0, 'q') || static_cast<int64_t>(i) / shape_.keys == 0);
      if (first || row || draws[i] * draws[i] < shape_.masked * shape_.masked) values[i] = none;
    }
    return {dtype, values};
  }
  void make_intervals() {
    if (!shape_.causal && shape_.window == 0 && shape_.segment == 0) return;
    for (int64_t i = 0; i < shape_.queries; ++i) {
      const int64_t at = i + shape_.keys - shape_.queries;  // as causal attention over a cache
      int64_t begin = 0, end = shape_.keys;
      if (shape_.segment > 0) {
        begin = at / shape_.segment * shape_.segment;
        end = std::min(end, begin + shape_.segment);
      }
      if (shape_.causal) end = std::min(end, at + 1);
      if (shape_.window > 0) begin = std::max(begin, at - shape_.window);
      begin_.push_back(begin);
      end_.push_back(end);
    }
  }
  void make_mask() {
    if (shape_.mask_blocks[0] == 0) return;
    const int64_t rows = (shape_.queries + shape_.mask_blocks[0] - 1) / shape_.mask_blocks[0];
    const int64_t columns = (shape_.keys + shape_.mask_blocks[1] - 1) / shape_.mask_blocks[1];
    rows_.push_back(0);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        if ((r * 7 + c * 3) % 4 < 2 && r != 1) columns_.push_back(c);
      }
      rows_.push_back(static_cast<int64_t>(columns_.size()));
    }
  }

  AttentionShape shape_;
  Buffer q_, k_, v_, dout_;
  Buffer bias_[2];
  std::vector<float> slopes_;
  std::vector<int64_t> begin_, end_, rows_, columns_;
};

/// Shapes of the field, small enough for plain loops in fp64.
inline std::vector<AttentionShape> attention_shapes() {
  std::vector<AttentionShape> all;
  const auto shape = [](std::string name, std::vector<int64_t> leading, int64_t queries, int64_t keys,
                        int64_t heads, int64_t width) {
    return AttentionShape{.name = std::move(name),
                          .leading = std::move(leading),
                          .queries = queries,
                          .keys = keys,
                          .heads = heads,
                          .kv_heads = heads,
                          .width = width};
  };
  all.push_back(with_bias(shape("msa row", {1, 5}, 40, 40, 4, 32), "xk", "0hqk"));
  all.push_back(with_bias(shape("msa row of 70", {1, 70}, 33, 33, 2, 8), "xk", "0hqk"));
  all.push_back(with_bias(shape("msa column", {2, 3}, 37, 37, 4, 32), "xk"));
  all.push_back(with_bias(shape("triangle", {17}, 17, 17, 4, 32), "xk", "hqk"));
  all.push_back(with_bias(shape("extra msa", {2, 9}, 35, 35, 8, 8), "xk", "0hqk"));
  all.push_back(with_bias(shape("template", {1, 6}, 20, 20, 4, 16), "xk", "0hqk"));
  all.push_back(with_bias(shape("af3 single", {2}, 65, 65, 3, 24), "xk", "xhqk"));
  all.push_back(with_bias(shape("af3 diffusion", {}, 66, 66, 4, 48), "k", "hqk"));
  all.push_back(with_bias(shape("long rows of bias", {3}, 160, 1100, 1, 8), "xk", "hqk"));
  all.push_back(with_bias(shape("two dense", {3, 2}, 34, 21, 2, 16), "xhqk", "0qk"));
  all.push_back(with_bias(shape("dense for all heads", {2}, 34, 50, 4, 16), "qk", "hq"));
  all.push_back(with_bias(shape("bias of a query, of all", {3}, 34, 50, 2, 16), "xhq", ""));
  all.push_back(with_bias(shape("bias of a head", {3}, 34, 50, 2, 16), "h", "hk"));
  all.push_back(shape("plain", {2}, 113, 203, 2, 64));
  all.push_back(shape("one query", {3}, 1, 77, 2, 128));
  all.push_back(shape("one key", {3}, 45, 1, 2, 20));
  all.push_back(shape("odd width", {}, 40, 70, 1, 1));
  all.push_back(shape("wide", {}, 35, 70, 1, 256));
  all.push_back(shape("799 x 3", {}, 799, 3, 1, 16));
  // Many terms of one sign in a sum, or few terms in torch's: what rounds more than torch shows here.
  AttentionShape ones = shape("grouped heads of a sum", {2}, 65, 65, 8, 24);
  ones.ones = true;
  ones.kv_heads = 1;
  all.push_back(ones);
  ones = shape("grouped heads of a long sum", {}, 256, 256, 8, 32);
  ones.ones = true;
  ones.kv_heads = 2;
  all.push_back(ones);
  ones = with_bias(shape("pair bias of a sum", {2}, 256, 256, 1, 32), "xk", "hqk");
  ones.ones = true;
  all.push_back(ones);
  all.push_back(with_bias(shape("width 1", {2}, 64, 129, 2, 1), "xk", "hqk"));
  all.push_back(with_bias(shape("width 256", {2}, 40, 40, 2, 256), "xk", "hqk"));
  AttentionShape cache = with_bias(shape("few queries over 1000 keys", {2}, 4, 1000, 2, 33), "xk", "hqk");
  cache.kv_heads = 1;
  all.push_back(cache);
  AttentionShape causal = shape("causal", {2}, 70, 70, 2, 32);
  causal.causal = true;
  all.push_back(causal);
  causal.name = "causal, transposed";
  causal.transposed = true;
  all.push_back(causal);
  AttentionShape decode = shape("causal over a cache, alibi", {2}, 3, 150, 4, 64);
  decode.causal = decode.alibi = true;
  decode.kv_heads = 2;
  all.push_back(decode);
  decode.name = "eight query heads of one key/value head, alibi";
  decode.queries = decode.kv_heads = 1;
  decode.heads = 8;
  decode.width = 256;
  all.push_back(decode);
  AttentionShape few = with_bias(shape("few queries, masked", {2, 3}, 8, 140, 1, 16), "xk", "0hqk");
  few.masked = 0.3;
  few.first_block_masked = few.row_masked = true;
  all.push_back(few);
  AttentionShape segments = shape("segments", {}, 300, 300, 2, 16);
  segments.causal = true;
  segments.segment = 90;
  all.push_back(segments);
  AttentionShape window = shape("window, alibi", {}, 200, 200, 2, 16);
  window.causal = window.alibi = true;
  window.window = 50;
  all.push_back(window);
  AttentionShape blocks = shape("block mask", {2}, 150, 170, 1, 16);
  blocks.mask_blocks[0] = 64;
  blocks.mask_blocks[1] = 64;
  all.push_back(blocks);
  blocks.name = "uneven block mask";
  blocks.mask_blocks[0] = 13;
  blocks.mask_blocks[1] = 9;
  all.push_back(blocks);
  AttentionShape grouped = with_bias(shape("grouped heads", {3}, 40, 60, 6, 16), "hqk", "k");
  grouped.kv_heads = 2;
  all.push_back(grouped);
  grouped = with_bias(grouped, "qk");
  grouped.name = "grouped heads, one bias";
  grouped.kv_heads = 1;
  grouped.leading = {};
  all.push_back(grouped);
  grouped = with_bias(shape("grouped heads, one bias in many stripes", {}, 150, 2000, 2, 8), "qk");
  grouped.kv_heads = 1;
  all.push_back(grouped);
  AttentionShape masked = with_bias(shape("masked", {1, 3}, 40, 140, 2, 16), "xk", "0hqk");
  masked.masked = 0.3;
  all.push_back(masked);
  masked.name = "first block masked";
  masked.first_block_masked = true;
  all.push_back(masked);
  masked.name = "row masked";
  masked.row_masked = true;
  all.push_back(masked);
  masked = with_bias(shape("masked by a dense bias", {2}, 40, 140, 2, 16), "hqk");
  masked.masked = 0.3;
  masked.first_block_masked = masked.row_masked = true;
  all.push_back(masked);
  return all;
}

}  // namespace axial::kernels::test
