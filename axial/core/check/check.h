// SPDX-License-Identifier: Apache-2.0
// Errors that a user can act on, and the checks that raise them. Every layer uses this header.
//
// A message reads `[op] what; expected X, got Y`. AXIAL_CHECK is for what a user did wrong,
// AXIAL_DCHECK for our own bugs (compiled in debug and sanitizer builds only).
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace axial {

/// Base of every exception thrown by Axial; what() is the whole message for the user.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A wrong argument: shape, dtype, range, a recipe key, the content of an input file.
class ValueError : public Error {
 public:
  using Error::Error;
};

/// A valid request that this build or device cannot serve; the message lists what it can.
class UnsupportedError : public Error {
 public:
  using Error::Error;
};

/// A file or stream that cannot be read or written; the message names path and system error.
class IoError : public Error {
 public:
  using Error::Error;
};

namespace detail {
std::string located(std::string_view op, std::string_view text);
[[noreturn]] void debug_check_failed(const char* condition, const char* file, int line);
}  // namespace detail

/// Throw `E` with the text `[op] <formatted text>`.
template <class E = ValueError, class... Args>
[[noreturn]] void fail(std::string_view op, fmt::format_string<Args...> text, Args&&... args) {
  throw E(detail::located(op, fmt::format(text, std::forward<Args>(args)...)));
}

}  // namespace axial

/// Throw ValueError `[op] text` unless `condition` holds; text is a fmt format string with arguments.
#define AXIAL_CHECK(condition, op, ...) \
  do {                                  \
    if (!(condition)) [[unlikely]]      \
      ::axial::fail((op), __VA_ARGS__); \
  } while (false)

#ifndef NDEBUG
#define AXIAL_DCHECK(condition)                                            \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::axial::detail::debug_check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
#else
#define AXIAL_DCHECK(condition) static_cast<void>(0)
#endif
