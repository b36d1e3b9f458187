// SPDX-License-Identifier: Apache-2.0
// Optimizer states and values in a file, brought to the host piece by piece: one piece is worked on while the
// next is read and the one before is written. Used by adamw.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::optim {

/// Elements [begin, end) of the held part of a row, and where its value and companions are now, each as the
/// elements of this span; undefined where the row has no such companion.
struct StateSpan {
  parallel::Parameter* row = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  at::Tensor value, master, exp_avg, exp_avg_sq;
};

/// Pieces are at most kBytes per companion, of whole rows or of parts of one row. Three sets of buffers: host
/// bytes are at most 3 sets x kBytes for each companion in a file, and as many elements of values there.
class StatePieces {
 public:
  static constexpr int64_t kBytes = int64_t{4} << 20;

  /// Over the rows with gradient, whose companions are of one dtype; those and values that the table keeps in
  /// a file come in buffers, others are taken where they are. Throws ValueError.
  explicit StatePieces(parallel::ParameterTable& parameters);

  /// Call `update` with the spans of each piece that have a gradient, in order of the table; what it changes
  /// is written back. Returns when all is. Throws IoError, and what `update` throws; parameters and states of
  /// some rows are updated then.
  void for_each(const std::function<void(const std::vector<StateSpan>&)>& update);

 private:
  static constexpr size_t kSets = 3;
  static constexpr size_t kNames = 4;  // exp_avg, exp_avg_sq, master, value
  struct Span {
    parallel::Parameter* row = nullptr;
    int64_t begin = 0, end = 0;
    int64_t at = 0;  // in the buffers
  };
  using Tickets = std::vector<std::pair<parallel::Offloaded*, int64_t>>;
  struct Set {
    std::array<at::Tensor, kNames> buffers;  // by name; undefined: not in a file
    Tickets reads, writes;
  };

  parallel::Offloaded* in_file(parallel::Parameter& row, size_t name) const;
  void make_buffers(parallel::ParameterTable& parameters, bool has_master);
  void add(parallel::Parameter& row, int64_t limit, int64_t& elements);
  std::vector<std::vector<Span>> with_gradients() const;
  void start_reads(const std::vector<Span>& piece, Set& set) const;
  void start_writes(const std::vector<Span>& piece, Set& set) const;
  static void wait(Tickets& tickets);
  StateSpan state_of(const Span& span, const Set& set) const;

  bool states_in_file_ = false, values_in_file_ = false;
  std::vector<std::vector<Span>> pieces_;
  std::array<Set, kSets> sets_;
};

}  // namespace axial::optim
