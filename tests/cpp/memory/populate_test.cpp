#include "memory/populate.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/size.h"
#include "io/file.h"
#include "io/temporary_file.h"
#include "memory/file_mapping.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

class MappedInPlace : public ::testing::Test {
 protected:
  std::vector<std::byte> bytes_ = testing::random_bytes(kMiB + 100);
  testing::TemporaryFile on_disk_{bytes_};
  File file_ = File::open(on_disk_.path(), FileAccess::kBuffered);
  std::shared_ptr<HostBuffer> buffer_ = HostBuffer::allocate(2 * kMiB);
};

TEST_F(MappedInPlace, ReadsAsTheFileAndLeavesItAloneWhenWrittenTo) {
  ASSERT_TRUE(can_map(file_.fd()));
  map_in_place(file_.fd(), 0, buffer_->bytes().first(bytes_.size()));
  EXPECT_TRUE(populate_read(buffer_->bytes().first(bytes_.size())));
  EXPECT_TRUE(std::equal(bytes_.begin(), bytes_.end(), buffer_->bytes().begin()));
  buffer_->bytes()[5] = ~bytes_[5];
  std::byte stored{};
  read_wholly(file_, 5, {&stored, 1});
  EXPECT_EQ(stored, bytes_[5]);
}

TEST_F(MappedInPlace, SaysBeforeItIsTouchedThatTheFileHasNoSuchBytes) {
  map_in_place(file_.fd(), 0, buffer_->bytes().first(bytes_.size()));
  std::filesystem::resize_file(on_disk_.path(), 2 * kBlockBytes);
  EXPECT_TRUE(populate_read(buffer_->bytes().first(2 * kBlockBytes)));
  if (can_populate()) {
    EXPECT_FALSE(populate_read(buffer_->bytes().first(bytes_.size())));
  }
}

TEST(Populate, LeavesContentsAlone) {
  const auto buffer = HostBuffer::allocate(kMiB);
  buffer->bytes()[kBlockBytes + 3] = std::byte{9};
  populate_write(buffer->bytes());
  EXPECT_EQ(buffer->bytes()[kBlockBytes + 3], std::byte{9});
  EXPECT_EQ(buffer->bytes()[kBlockBytes + 4], std::byte{0});
}

}  // namespace
}  // namespace sllm
