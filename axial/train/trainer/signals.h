// SPDX-License-Identifier: Apache-2.0
// Turns SIGINT and SIGTERM into a wish that the training loop sees between two steps.
#pragma once

#include <csignal>

namespace axial::train {

/// While it lives, the first SIGINT or SIGTERM is only noted; a second one acts as usual (ends the process).
/// One at a time per process. The destructor restores the handlers that were there.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();
  /// The signal that came, or 0.
  int received() const;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

}  // namespace axial::train
