// SPDX-License-Identifier: Apache-2.0
// Every pair of places is asked for once, by blocks of queries.
#include "axial/parallel/sequence_attention/mask.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/parallel/sequence_attention/pair_bits.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "mask";

enum class Seen : uint8_t { kNothing, kPart, kAll };

// How much of the pairs of a block, keys not after queries, is seen.
Seen seen_in(const SeesFunction& sees, int64_t query, int64_t query_end, int64_t key, int64_t key_end) {
  bool any = false, all = true;
  for (int64_t q = query; q < query_end; ++q) {
    for (int64_t k = key; k < std::min(key_end, q + 1); ++k) {
      const bool seen = sees(q, k);
      any = any || seen;
      all = all && seen;
      if (any && !all) return Seen::kPart;
    }
  }
  return any ? Seen::kAll : Seen::kNothing;
}

// The text between `before` and `after` in a header of .npy.
std::string field(const std::string& header, const std::string& before, const std::string& after) {
  const size_t begin = header.find(before);
  const size_t end = begin == std::string::npos ? begin : header.find(after, begin + before.size());
  return end == std::string::npos ? "" : header.substr(begin + before.size(), end - begin - before.size());
}

}  // namespace

SeesTable sees_of(const at::Tensor& tensor) {
  AXIAL_CHECK(tensor.dim() == 2 && tensor.size(0) == tensor.size(1) && tensor.is_cpu() &&
                  (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte),
              kOp, "tensor; expected bool or uint8 [N, N] on the host, got {} [{}] on {}",
              c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "), tensor.device().str());
  const at::Tensor bytes = tensor.to(at::kByte).contiguous();
  const auto* data = bytes.const_data_ptr<uint8_t>();
  const int64_t n = bytes.size(1);
  return {n, [bytes, data, n](int64_t query, int64_t key) { return data[query * n + key] != 0; }};
}

RowMask::RowMask(int64_t length, SeesFunction sees, int64_t block)
    : length_(length), block_(block), sees_(std::move(sees)) {
  AXIAL_CHECK(length >= 1 && block >= 1, kOp, "length and block; expected at least 1, got {} and {}", length,
              block);
  AXIAL_CHECK(sees_ != nullptr, kOp, "function; expected one, got none");
  find_blocks();
}

RowMask::RowMask(const SeesTable& table, int64_t block) : RowMask(table.length, table.sees, block) {}

RowMask::RowMask(const at::Tensor& sees, int64_t block) : RowMask(sees_of(sees), block) {}

RowMask RowMask::from_npy(const std::filesystem::path& file, int64_t block) {
  return RowMask(read_sees(file), block);
}

SeesTable read_sees(const std::filesystem::path& file) {
  const std::string bytes = read_file(file);
  const bool is_npy = bytes.size() > 10 && bytes.compare(0, 6, "\x93NUMPY") == 0 && bytes[6] == 1;
  AXIAL_CHECK(is_npy, kOp, "'{}' is no NumPy file of format 1.0", file.string());
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(bytes[i])); };
  const size_t start = 10 + byte(8) + 256 * byte(9);
  AXIAL_CHECK(start <= bytes.size(), kOp, "'{}' ends inside of its header", file.string());
  const std::string header = bytes.substr(10, start - 10);
  const std::string dtype = field(header, "'descr': '", "'"), order = field(header, "'fortran_order': ", ","),
                    shape = field(header, "'shape': (", ")");
  int64_t rows = 0, columns = 0;
  const bool is_square =
      std::sscanf(shape.c_str(), "%ld, %ld", &rows, &columns) == 2 && rows == columns && rows > 0;
  AXIAL_CHECK((dtype == "|b1" || dtype == "|u1") && order == "False" && is_square, kOp,
              "'{}'; expected '|b1' or '|u1' of shape (N, N) in C order, got '{}' of ({}), fortran_order {}",
              file.string(), dtype, shape, order);
  AXIAL_CHECK(
      static_cast<int64_t>(bytes.size() - start) / rows == columns && (bytes.size() - start) % rows == 0, kOp,
      "'{}' has {} bytes behind its header; expected {} times {}", file.string(), bytes.size() - start, rows,
      columns);
  at::Tensor sees = at::empty({rows, columns}, at::kByte);
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(start), bytes.end(),
            sees.mutable_data_ptr<uint8_t>());
  return sees_of(sees);
}

SeesFunction sees_window_and_global(int64_t window, const std::vector<int64_t>& global) {
  AXIAL_CHECK(window >= 0, kOp, "window; expected at least 0, got {}", window);
  std::vector<int64_t> places = global;
  std::sort(places.begin(), places.end());
  AXIAL_CHECK(places.empty() || places.front() >= 0, kOp, "global place; expected at least 0, got {}",
              places.empty() ? 0 : places.front());
  return [window, places = std::move(places)](int64_t query, int64_t key) {
    const auto listed = [&](int64_t place) {
      return std::binary_search(places.begin(), places.end(), place);
    };
    return query - key <= window || listed(query) || listed(key);
  };
}

RowMask RowMask::window_and_global(int64_t length, int64_t window, const std::vector<int64_t>& global,
                                   int64_t block) {
  for (const int64_t place : global) {
    AXIAL_CHECK(0 <= place && place < length, kOp, "global place; expected one of [0, {}), got {}", length,
                place);
  }
  return RowMask(length, sees_window_and_global(window, global), block);
}

void RowMask::find_blocks() {
  const int64_t blocks = (length_ + block_ - 1) / block_;
  std::vector<std::vector<int64_t>> seen(static_cast<size_t>(blocks));
  std::vector<uint8_t> whole(static_cast<size_t>(blocks), 1);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t query = r * block_, query_end = std::min(length_, query + block_);
      for (int64_t c = 0; c * block_ < query_end; ++c) {
        const Seen how = seen_in(sees_, query, query_end, c * block_, std::min(length_, (c + 1) * block_));
        if (how == Seen::kNothing) continue;
        seen[static_cast<size_t>(r)].push_back(c);
        if (how == Seen::kPart) whole[static_cast<size_t>(r)] = 0;
      }
    }
  });
  std::vector<int64_t> rows{0}, columns;
  for (const std::vector<int64_t>& row : seen) {
    columns.insert(columns.end(), row.begin(), row.end());
    rows.push_back(static_cast<int64_t>(columns.size()));
  }
  is_blocks_ = std::all_of(whole.begin(), whole.end(), [](uint8_t w) { return w == 1; });
  rows_ = at::tensor(rows, at::kLong);
  columns_ = columns.empty() ? at::empty({0}, at::kLong) : at::tensor(columns, at::kLong);
}

void RowMask::add_to(SequenceAttentionOptions& options, const SequenceLayout& layout, at::ScalarType dtype,
                     bool in_bits) const {
  AXIAL_CHECK(layout.length() == length_, kOp, "rows of {} places; expected the {} of the mask",
              layout.length(), length_);
  options.mask_rows = rows_;
  options.mask_columns = columns_;
  options.query_block = options.key_block = block_;
  if (is_blocks_) return;
  AXIAL_CHECK(!options.bias && !options.attended_bias && !options.attended_bits, kOp,
              "options have a bias already; expected none beside a mask that is no blocks");
  const at::Tensor places = layout.attended_positions();
  const int64_t* place = places.const_data_ptr<int64_t>();
  if (in_bits) {
    const at::Tensor bits = make_pair_bits(1, places.numel(), length_, at::kCPU);
    auto* all = bits.mutable_data_ptr<uint8_t>();
    at::parallel_for(0, places.numel(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t l = begin; l < end; ++l) {
        for (int64_t k = 0; k <= place[l]; ++k) {
          if (!sees_(place[l], k)) hide_key(all + l * bits.size(2), k);
        }
      }
    });
    options.attended_bits = bits;
    return;
  }
  at::Tensor hidden = at::zeros({1, 1, places.numel(), length_}, at::kFloat);
  auto* out = hidden.mutable_data_ptr<float>();
  at::parallel_for(0, places.numel(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      for (int64_t k = 0; k <= place[l]; ++k) {
        if (!sees_(place[l], k)) out[l * length_ + k] = -std::numeric_limits<float>::infinity();
      }
    }
  });
  options.attended_bias = dtype == at::kDouble ? hidden.to(at::kDouble) : hidden;
}

}  // namespace axial::parallel
