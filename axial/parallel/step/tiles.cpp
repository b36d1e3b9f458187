// SPDX-License-Identifier: Apache-2.0
// Every rank of `tensor` cuts what it has of the stream into as many even parts; tile i of whole rows is part
// i of the first rank, then of the second, and so on.
#include "axial/parallel/step/tiles.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/placement/placement.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "runner";

// Of positions; -1: none.
int64_t dim_of(Positions how) {
  if (how == Positions::kShared) return 0;
  return how == Positions::kStream || how == Positions::kRows ? 1 : -1;
}

at::Tensor sliced(const at::Tensor& x, int64_t dim, const std::vector<Interval>& places) {
  if (places.size() == 1) return x.narrow(dim, places[0].begin, places[0].size());
  std::vector<at::Tensor> parts;
  for (const Interval& place : places) parts.push_back(x.narrow(dim, place.begin, place.size()));
  return at::cat(parts, dim);
}

// L: of the first tensor that has it.
int64_t length_of(const Block& block, const NamedTensors& tensors) {
  for (const auto& [name, how] : block.tokens->reads) {
    const int64_t dim = dim_of(how);
    if (dim < 0 || (block.tokens->cut_stream && how == Positions::kStream)) continue;
    const at::Tensor& tensor = tensors.at(name);
    AXIAL_CHECK(tensor.dim() > dim, kOp,
                "'{}' of the token part of block '{}'; expected positions in dim {}, got [{}]", name,
                block.name, dim, fmt::join(tensor.sizes(), ", "));
    return tensor.size(dim);
  }
  fail(kOp, "token part of block '{}'; expected a tensor that tells the positions of {}, got none",
       block.name, block.tokens->cut_stream ? "whole rows" : "rows");
}

}  // namespace

Tiles::Tiles(const Block& block, const NamedTensors& tensors, int64_t tile_tokens, const Mesh& mesh)
    : block_(block), length_(length_of(block, tensors)) {
  const int64_t ranks = block.tokens->cut_stream ? tensor_degree(mesh) : 1;
  const int64_t own = ranks == 1 ? 0 : mesh.coordinate(kTensorAxis);
  const int64_t tiles =
      tile_tokens == 0 ? 1 : std::max<int64_t>(1, length_ / tile_tokens + (length_ % tile_tokens != 0));
  rows_.resize(static_cast<size_t>(tiles));
  stream_.resize(static_cast<size_t>(tiles));
  int64_t begin = 0;
  const Sizes pieces = even_sizes(length_, ranks);
  for (int64_t r = 0; r < ranks; ++r) {
    const int64_t first = begin;
    const Sizes sizes = even_sizes(pieces[static_cast<size_t>(r)], tiles);
    for (size_t i = 0; i < sizes.size(); ++i) {
      rows_[i].push_back({begin, begin + sizes[i]});
      if (r == own) stream_[i].push_back({begin - first, begin - first + sizes[i]});
      begin += sizes[i];
    }
  }
  stream_length_ = pieces[static_cast<size_t>(own)];
  for (const auto& [name, how] : block.tokens->reads) check_positions(name, how, tensors.at(name));
}

void Tiles::check_positions(const std::string& name, Positions how, const at::Tensor& tensor) const {
  const int64_t dim = dim_of(how);
  if (dim < 0) return;
  const int64_t expected = how == Positions::kStream ? stream_length_ : length_;
  AXIAL_CHECK(tensor.dim() > dim && tensor.size(dim) == expected, kOp,
              "'{}' of the token part of block '{}'; expected {} positions in dim {}, got [{}]", name,
              block_.name, expected, dim, fmt::join(tensor.sizes(), ", "));
}

const std::vector<Interval>& Tiles::places(Positions how, int64_t i) const {
  return (how == Positions::kStream ? stream_ : rows_)[static_cast<size_t>(i)];
}

at::Tensor Tiles::slice(const at::Tensor& whole, Positions how, int64_t i) const {
  const int64_t dim = dim_of(how);
  return dim < 0 ? whole : sliced(whole, dim, places(how, i));
}

NamedTensors Tiles::read(const NamedTensors& tensors, int64_t i) const {
  NamedTensors out;
  for (const auto& [name, how] : block_.tokens->reads) {
    out.emplace(name, slice(tensors.at(name), how, i).detach());
  }
  return out;
}

void Tiles::put(at::Tensor& whole, const std::string& name, Positions how, const at::Tensor& part,
                int64_t i) const {
  if (how == Positions::kNone) {
    if (part.defined()) whole = whole.defined() ? whole + part : part.clone();
    return;
  }
  if (how == Positions::kSum) {
    AXIAL_CHECK(part.numel() == 1, kOp,
                "sum '{}' of the token part of block '{}'; expected one element, got [{}]", name, block_.name,
                fmt::join(part.sizes(), ", "));
    const at::Tensor term = part.detach().to(at::kDouble);
    whole = whole.defined() ? whole + term : term;
    if (i + 1 == size()) whole = whole.to(part.scalar_type());
    return;
  }
  const int64_t dim = dim_of(how);
  const std::vector<Interval>& to = places(how, i);
  if (!part.defined()) {
    if (!whole.defined()) return;
    for (const Interval& place : to) whole.narrow(dim, place.begin, place.size()).zero_();
    return;
  }
  const int64_t expected = total_size(to);
  AXIAL_CHECK(part.dim() > dim && part.size(dim) == expected, kOp,
              "'{}' of the token part of block '{}'; expected {} positions in dim {} of a tile, got [{}]",
              name, block_.name, expected, dim, fmt::join(part.sizes(), ", "));
  std::vector<int64_t> sizes = part.sizes().vec();
  sizes[static_cast<size_t>(dim)] = how == Positions::kStream ? stream_length_ : length_;
  if (!whole.defined()) {
    const auto options = part.options().requires_grad(false);
    whole = i == 0 ? at::empty(sizes, options) : at::zeros(sizes, options);
  }
  AXIAL_CHECK(whole.sizes() == at::IntArrayRef(sizes) && whole.scalar_type() == part.scalar_type(), kOp,
              "'{}' of the token part of block '{}'; expected tiles of one shape and dtype, got [{}] {} "
              "behind [{}] {}",
              name, block_.name, fmt::join(sizes, ", "), c10::toString(part.scalar_type()),
              fmt::join(whole.sizes(), ", "), c10::toString(whole.scalar_type()));
  int64_t from = 0;
  for (const Interval& place : to) {
    whole.narrow(dim, place.begin, place.size()).copy_(part.narrow(dim, from, place.size()));
    from += place.size();
  }
}

}  // namespace axial::parallel
