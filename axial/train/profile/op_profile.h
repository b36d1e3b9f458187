// SPDX-License-Identifier: Apache-2.0
// Where the time of a step goes, by op: what `axial train --profile` prints.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace axial::train {

/// Counts, while it lives, calls and seconds of every outermost op and of every marked part (optimizer, data)
/// that runs on the thread that made it. An op that another op calls belongs to the outer one; what no op
/// covers (autograd's bookkeeping, allocation) is "between ops". At most one per thread at a time.
/// Costs well under a microsecond an op.
class OpProfile {
 public:
  /// Throws Error when this thread has one already.
  OpProfile();
  OpProfile(const OpProfile&) = delete;
  OpProfile& operator=(const OpProfile&) = delete;
  ~OpProfile();

  struct Row {
    std::string name;
    int64_t calls = 0;
    double seconds = 0;
  };
  /// Since construction, largest first; the last row is "between ops". Their seconds add up to the time
  /// since.
  std::vector<Row> rows() const;
  /// rows() as a table for people; calls and milliseconds are per step.
  std::string render(int64_t steps) const;

  /// Of torch's observer, in pairs around an op.
  void enter();
  void leave(std::string_view name);

 private:
  struct Total {
    int64_t calls = 0;
    double seconds = 0;
  };
  std::map<std::string, Total, std::less<>> totals_;
  uint64_t handle_ = 0;
  int64_t depth_ = 0;
  double begin_ = 0;        // of the profile
  double begin_of_op_ = 0;  // of the outermost op now running
};

}  // namespace axial::train
