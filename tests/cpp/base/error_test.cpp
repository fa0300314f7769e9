#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sllm {
namespace {

TEST(ErrorCode, EachHasANameOfItsOwn) {
  std::set<std::string> names;
  for (const ErrorCode code : kErrorCodes) names.emplace(name_of(code));
  EXPECT_EQ(names.size(), kErrorCodes.size());
  EXPECT_FALSE(names.contains(""));
}

TEST(ErrorCode, ListHoldsAllOfThemInOrder) {
  // kInternal is the last enumerator, so a code that the list lacks would shift it.
  for (std::size_t i = 0; i < kErrorCodes.size(); ++i) EXPECT_EQ(static_cast<std::size_t>(kErrorCodes[i]), i);
  EXPECT_EQ(kErrorCodes.back(), ErrorCode::kInternal);
}

TEST(Error, CarriesItsCodeAndMessage) {
  const Error error(ErrorCode::kBusy, "queue of qwen is full: 8 waiting");
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_STREQ(error.what(), "queue of qwen is full: 8 waiting");
}

TEST(ErrorFromErrno, MapsWhatACallerCanActOn) {
  const std::vector<std::pair<int, ErrorCode>> expected = {
      {ENOENT, ErrorCode::kNotFound},
      {ENOTDIR, ErrorCode::kNotFound},
      {EACCES, ErrorCode::kForbidden},
      {EPERM, ErrorCode::kForbidden},
      {EEXIST, ErrorCode::kConflict},
      {ENOMEM, ErrorCode::kExhausted},
      {EMFILE, ErrorCode::kExhausted},
      {ENFILE, ErrorCode::kExhausted},
      {ENOSYS, ErrorCode::kUnsupported},
      {ETIMEDOUT, ErrorCode::kDeadline},
      {EOPNOTSUPP, ErrorCode::kUnsupported},
      {EIO, ErrorCode::kIo},
      {ENOSPC, ErrorCode::kIo},
  };
  for (const auto& [number, code] : expected)
    EXPECT_EQ(error_from_errno(number, "failed").code(), code) << number;
}

TEST(ErrorFromErrno, SaysWhatFailedThenWhyInLowerCaseWithoutAFullStop) {
  const Error error = error_from_errno(EIO, "cannot read 4096 bytes at 0 from model.safetensors");
  EXPECT_STREQ(error.what(), "cannot read 4096 bytes at 0 from model.safetensors: input/output error");
}

TEST(ErrorFromErrno, NumberWithoutANameIsAnIoErrorThatShowsIt) {
  const Error error = error_from_errno(9999, "cannot read");
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_NE(std::string(error.what()).find("9999"), std::string::npos);
}

}  // namespace
}  // namespace sllm
