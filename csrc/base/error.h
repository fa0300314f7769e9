#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sllm {

// What went wrong, as a caller can act on it. Each code has one Python exception class
// (sllm_store.errors); a new code needs a class there.
enum class ErrorCode {
  kInvalid,
  kNotFound,
  kConflict,
  kUnauthenticated,
  kForbidden,
  kCorrupt,
  kUnsupported,
  kIo,
  kExhausted,
  kBusy,
  kUnavailable,
  kDeadline,
  kDevice,
  kCancelled,
  kInternal,
};

inline constexpr std::array kErrorCodes = {
    ErrorCode::kInvalid,   ErrorCode::kNotFound,  ErrorCode::kConflict,    ErrorCode::kUnauthenticated,
    ErrorCode::kForbidden, ErrorCode::kCorrupt,   ErrorCode::kUnsupported, ErrorCode::kIo,
    ErrorCode::kExhausted, ErrorCode::kBusy,      ErrorCode::kUnavailable, ErrorCode::kDeadline,
    ErrorCode::kDevice,    ErrorCode::kCancelled, ErrorCode::kInternal,
};

// The code as both languages spell it: "not_found".
std::string_view name_of(ErrorCode code);

// The one exception type of the native code. The message names the thing, in lower case,
// without a full stop.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// The border between the operating system and us: `failed` says what could not be done
// ("cannot open model.safetensors"), the number is an errno value.
Error error_from_errno(int number, const std::string& failed);

}  // namespace sllm
