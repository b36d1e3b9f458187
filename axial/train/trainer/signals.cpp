// SPDX-License-Identifier: Apache-2.0
// The handler does only what is allowed in one: it stores a number.
#include "axial/train/trainer/signals.h"

namespace axial::train {
namespace {

volatile std::sig_atomic_t g_received = 0;  // a handler can reach nothing but globals

extern "C" void note_signal(int signal) { g_received = signal; }

}  // namespace

StopSignals::StopSignals() {
  g_received = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;  // the second one is not ours
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_interrupt_);
  ::sigaction(SIGTERM, &action, &old_terminate_);
}

StopSignals::~StopSignals() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
}

int StopSignals::received() const { return g_received; }

}  // namespace axial::train
