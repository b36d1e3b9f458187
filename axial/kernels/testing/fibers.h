// SPDX-License-Identifier: Apache-2.0
// Functions that take turns on one thread of the host, each with a stack of its own: the threads of an
// emulated block. For tests of kernels only.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// swapcontext() asks the kernel for the mask of signals each time; between fibers that have begun, jumps do.
// Sanitizers follow contexts alone.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(_FORTIFY_SOURCE)
#define AXIAL_FIBERS_JUMP 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace axial::kernels::test {

/// Stacks that fibers of one run after the other use.
class FiberStacks {
 public:
  static constexpr size_t kBytes = 128 * 1024;  // instances without optimisation keep every temporary
  explicit FiberStacks(int count) {
    for (int i = 0; i < count; ++i) stacks_.push_back(std::make_unique_for_overwrite<char[]>(kBytes));
  }
  int count() const { return static_cast<int>(stacks_.size()); }
  char* at(int i) const { return stacks_[static_cast<size_t>(i)].get(); }

 private:
  std::vector<std::unique_ptr<char[]>> stacks_;
};

/// Runs a fiber for each stack to its end. What one throws ends all: the others are left where they are, so
/// that they may own nothing but their stacks.
class Fibers {
 public:
  /// body(i) is fiber i; where `backwards`, later ones go first.
  Fibers(const FiberStacks& stacks, bool backwards, std::function<void(int)> body)
      : stacks_(stacks),
        body_(std::move(body)),
        backwards_(backwards),
        fibers_(static_cast<size_t>(stacks.count())) {}

  /// Rethrows what a fiber threw; throws where all that are left wait for each other. `waiting` says for what
  /// fiber i waits.
  void run(const std::function<std::string(int)>& waiting) {
    for (size_t i = 0; i < fibers_.size(); ++i) start(static_cast<int>(i));
    size_t done = 0;
    while (done < fibers_.size()) {
      progress_ = false;
      done = 0;
      for (size_t n = 0; n < fibers_.size(); ++n) {
        const size_t i = backwards_ ? fibers_.size() - 1 - n : n;
        if (!fibers_[i].done) enter(i);
        if (error_) std::rethrow_exception(error_);
        done += fibers_[i].done;
      }
      if (progress_ || done == fibers_.size()) continue;
      for (size_t i = 0; i < fibers_.size(); ++i) {
        if (!fibers_[i].done)
          throw std::runtime_error("threads wait for ever: " + waiting(static_cast<int>(i)));
      }
    }
  }

  /// From a fiber: let the others go on. `progress` is what this one did since it was entered.
  void yield(bool progress) {
    progress_ = progress_ || progress;
    leave(fibers_[static_cast<size_t>(current_)], false);
  }

 private:
  struct Fiber {
    ucontext_t context = {};
    jmp_buf jump = {};
    bool begun = false;
    bool done = false;
    void* fake_stack = nullptr;
    void* sanitizer = nullptr;
  };

  // makecontext passes ints alone.
  static void enter_body(unsigned high, unsigned low) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): it came as one
    auto* self = reinterpret_cast<Fibers*>(static_cast<uintptr_t>(high) << 32 | low);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->main_stack_, &self->main_size_);
#endif
    try {
      self->body_(self->current_);
    } catch (...) {
      self->error_ = std::current_exception();
    }
    Fiber& fiber = self->fibers_[static_cast<size_t>(self->current_)];
    fiber.done = self->progress_ = true;
    self->leave(fiber, true);
  }

  void start(int i) {
    Fiber& fiber = fibers_[static_cast<size_t>(i)];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks_.at(i);
    fiber.context.uc_stack.ss_size = FiberStacks::kBytes;
    fiber.context.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(enter_body), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
#if defined(__SANITIZE_THREAD__)
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
  }

  void enter(size_t i) {
    current_ = static_cast<int>(i);
    Fiber& fiber = fibers_[i];
#if defined(__SANITIZE_THREAD__)
    main_sanitizer_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber.sanitizer, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stacks_.at(current_), FiberStacks::kBytes);
#endif
#if defined(AXIAL_FIBERS_JUMP)
    if (_setjmp(main_jump_) == 0) {
      if (fiber.begun) _longjmp(fiber.jump, 1);
      fiber.begun = true;
      setcontext(&fiber.context);
    }
#else
    swapcontext(&main_, &fiber.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  void leave(Fiber& fiber, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(main_sanitizer_, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, main_stack_, main_size_);
#endif
#if defined(AXIAL_FIBERS_JUMP)
    if (_setjmp(fiber.jump) == 0) _longjmp(main_jump_, 1);
#else
    swapcontext(&fiber.context, &main_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack_, &main_size_);
#endif
  }

  const FiberStacks& stacks_;
  std::function<void(int)> body_;
  bool backwards_;
  std::vector<Fiber> fibers_;
  ucontext_t main_ = {};
  jmp_buf main_jump_ = {};
  [[maybe_unused]] const void* main_stack_ = nullptr;
  [[maybe_unused]] size_t main_size_ = 0;
  [[maybe_unused]] void* main_sanitizer_ = nullptr;
  int current_ = 0;
  bool progress_ = false;
  std::exception_ptr error_;
};

}  // namespace axial::kernels::test
