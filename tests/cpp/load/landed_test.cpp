#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "device/host_device.h"
#include "io/temporary_file.h"
#include "load/pipeline.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::random_bytes;
using testing::TemporaryFile;

void never() {}

// A file of which one extent lies as reads need it and one does not, and what is said to have landed of it.
class LandedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    plan_.files.push_back({.path = on_disk_.path(),
                           .identity = File::open(on_disk_.path(), FileAccess::kBuffered).identity(),
                           .span_crcs = {},
                           .resident = {}});
    plan_.extents.push_back({.bytes = kApart});
    plan_.extents.push_back({.offset = kApart, .bytes = kBytes - kApart, .destination = kApart + 64});
    plan_.target_bytes = {kBytes + 64};
    destination_ = HostBuffer::allocate(plan_.target_bytes[0]);
    options_.extent_bytes = kMiB;
    options_.on_landed = [this](std::uint64_t file, std::uint64_t offset, std::uint64_t bytes) {
      EXPECT_EQ(file, 0U);
      const std::lock_guard lock(mutex_);
      for (std::uint64_t at = offset; at < offset + bytes; ++at) {
        EXPECT_EQ(landed_[at]++, 0) << "twice";
        if (bytes_[at] != destination_->bytes()[at < kApart ? at : at + 64]) ++different_;
      }
    };
  }

  void prove() {
    for (std::uint64_t at = 0; at < kBytes; at += kMiB) {
      plan_.files[0].span_crcs.push_back(
          crc32c(std::span(bytes_).subspan(at, std::min<std::uint64_t>(kMiB, kBytes - at))));
    }
  }

  LoadReport run() {
    std::fill(landed_.begin(), landed_.end(), 0);
    std::fill(destination_->bytes().begin(), destination_->bytes().end(), std::byte{0});
    const Target target = Target::in_host(destination_->bytes());
    return load(plan_, {&target, 1}, options_, never);
  }

  void expect_all_landed() {
    EXPECT_TRUE(std::all_of(landed_.begin(), landed_.end(), [](int count) { return count == 1; }));
    EXPECT_EQ(different_, 0U);
  }

  static constexpr std::uint64_t kApart = 3 * kMiB + kMiB / 2;
  static constexpr std::uint64_t kBytes = 6 * kMiB + 77;
  std::vector<std::byte> bytes_ = random_bytes(kBytes);
  TemporaryFile on_disk_{bytes_};
  LoadPlan plan_;
  LoadOptions options_;
  std::shared_ptr<HostBuffer> destination_;
  std::mutex mutex_;
  std::vector<int> landed_ = std::vector<int>(kBytes);
  std::uint64_t different_ = 0;
};

TEST_F(LandedTest, IsToldOfEachByteOnceItIsThere) {
  for (const bool is_proved : {false, true}) {
    if (is_proved) prove();
    for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy, CacheUse::kMap}) {
      options_.cache = cache;
      const LoadReport report = run();
      EXPECT_EQ(report.bytes_verified, is_proved ? kBytes : 0);
      expect_all_landed();
    }
  }
}

TEST_F(LandedTest, IsNotToldOfASpanThatIsDamaged) {
  prove();
  plan_.files[0].span_crcs[4] ^= 1;
  EXPECT_THROW(run(), Error);
  EXPECT_EQ(landed_[4 * kMiB], 0);
  EXPECT_EQ(landed_[5 * kMiB - 1], 0);
}

TEST_F(LandedTest, EndsTheLoadByAnError) {
  options_.on_landed = [](std::uint64_t, std::uint64_t, std::uint64_t) {
    throw Error(ErrorCode::kConflict, "nobody wants it");
  };
  try {
    run();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConflict);
  }
}

TEST_F(LandedTest, CannotBeToldOfDevices) {
  HostDevice device;
  Target target = Target::in_host(destination_->bytes());
  target.device = &device;
  EXPECT_THROW(load(plan_, {&target, 1}, options_, never), Error);
}

}  // namespace
}  // namespace sllm
