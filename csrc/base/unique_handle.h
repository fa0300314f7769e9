#pragma once

#include <unistd.h>

#include <utility>

namespace sllm {

// Sole owner of an operating-system handle. Traits say the type, its empty value, and how it is closed.
template <typename Traits>
class UniqueHandle {
 public:
  using Value = typename Traits::Value;

  UniqueHandle() = default;
  explicit UniqueHandle(Value value) : value_(value) {}
  UniqueHandle(UniqueHandle&& other) noexcept : value_(other.release()) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) {
      reset();
      value_ = other.release();
    }
    return *this;
  }
  UniqueHandle(const UniqueHandle&) = delete;
  UniqueHandle& operator=(const UniqueHandle&) = delete;
  ~UniqueHandle() { reset(); }

  const Value& get() const { return value_; }
  explicit operator bool() const { return value_ != Traits::none(); }
  Value release() { return std::exchange(value_, Traits::none()); }

 private:
  void reset() {
    if (value_ != Traits::none()) Traits::close(std::exchange(value_, Traits::none()));
  }

  Value value_ = Traits::none();
};

struct FdTraits {
  using Value = int;
  static Value none() { return -1; }
  // EINTR included, Linux has closed the descriptor when close() returns (close(2)).
  static void close(Value fd) { ::close(fd); }
};

using UniqueFd = UniqueHandle<FdTraits>;

}  // namespace sllm
