#include "base/unique_handle.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <type_traits>
#include <utility>
#include <vector>

namespace sllm {
namespace {

std::vector<int> closed;

// Handles that are numbers; closing one writes it down.
struct RecordedTraits {
  using Value = int;
  static Value none() { return 0; }
  static void close(Value value) { closed.push_back(value); }
};
using Recorded = UniqueHandle<RecordedTraits>;

static_assert(!std::is_copy_constructible_v<Recorded> && !std::is_copy_assignable_v<Recorded>);
static_assert(std::is_nothrow_move_constructible_v<Recorded> && std::is_nothrow_move_assignable_v<Recorded>);

class UniqueHandleTest : public testing::Test {
 protected:
  void SetUp() override { closed.clear(); }
};

TEST_F(UniqueHandleTest, ClosesOnceWhenItGoes) {
  {
    const Recorded handle(7);
    EXPECT_TRUE(handle);
    EXPECT_EQ(handle.get(), 7);
  }
  EXPECT_EQ(closed, std::vector<int>{7});
}

TEST_F(UniqueHandleTest, EmptyOneClosesNothing) {
  {
    const Recorded handle;
    EXPECT_FALSE(handle);
  }
  EXPECT_TRUE(closed.empty());
}

TEST_F(UniqueHandleTest, MovedFromOneIsEmpty) {
  {
    Recorded first(7);
    const Recorded second(std::move(first));
    EXPECT_FALSE(first);
    EXPECT_EQ(second.get(), 7);
    EXPECT_TRUE(closed.empty());
  }
  EXPECT_EQ(closed, std::vector<int>{7});
}

TEST_F(UniqueHandleTest, AssignedToClosesWhatItHeld) {
  Recorded handle(7);
  handle = Recorded(8);
  EXPECT_EQ(closed, std::vector<int>{7});
  EXPECT_EQ(handle.get(), 8);
}

TEST_F(UniqueHandleTest, SurvivesAssignmentToItself) {
  Recorded handle(7);
  Recorded& same = handle;
  handle = std::move(same);
  EXPECT_EQ(handle.get(), 7);
  EXPECT_TRUE(closed.empty());
}

TEST_F(UniqueHandleTest, ReleasedOneIsTheCallers) {
  {
    Recorded handle(7);
    EXPECT_EQ(handle.release(), 7);
    EXPECT_FALSE(handle);
  }
  EXPECT_TRUE(closed.empty());
}

TEST(UniqueFd, ClosesTheDescriptor) {
  int number = -1;
  {
    const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(fd);
    number = fd.get();
    EXPECT_NE(::fcntl(number, F_GETFD), -1);
  }
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace sllm
