#include "io/residency.h"

#include <gtest/gtest.h>

#include "base/size.h"
#include "io/file.h"
#include "io/temporary_file.h"

namespace sllm {
namespace {

TEST(Residency, TellsWhatThePageCacheHasRangeByRange) {
  const testing::TemporaryFile on_disk(testing::random_bytes(2 * kMiB + 100));
  const File file = File::open(on_disk.path(), FileAccess::kBuffered);
  testing::read_once(on_disk.path());
  EXPECT_TRUE(is_cached(file.fd(), 0, 2 * kMiB + 100));
  EXPECT_TRUE(is_cached(file.fd(), 2 * kMiB, 100));
  testing::evict(on_disk.path());
  EXPECT_FALSE(is_cached(file.fd(), 0, 2 * kMiB));
  EXPECT_FALSE(is_cached(file.fd(), 0, 0));
}

TEST(Residency, SaysNoOfWhatItCannotAsk) { EXPECT_FALSE(is_cached(-1, 0, kMiB)); }

}  // namespace
}  // namespace sllm
