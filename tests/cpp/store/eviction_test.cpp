#include "store/eviction.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace sllm {
namespace {

using Keys = std::vector<EvictionOrder::Key>;

TEST(EvictionOrder, LetsGoFirstWhatCostsLeastABytePerUse) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  order.use(1, 4.0, 1000);  // 4 ms a byte
  order.use(2, 4.0, 2000);  // 2 ms
  order.use(3, 1.0, 1000);  // 1 ms, used three times
  order.use(3, 1.0, 1000);
  order.use(3, 1.0, 1000);
  EXPECT_EQ(order.order(), (Keys{2, 3, 1}));
  EXPECT_DOUBLE_EQ(order.rank_of(3).priority, 0.003);
}

TEST(EvictionOrder, LetsGoFirstWhatWasUsedLongestAgoAmongEquals) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  for (const EvictionOrder::Key key : {5, 4, 6}) order.use(key, 1.0, 10);
  EXPECT_EQ(order.order(), (Keys{5, 4, 6}));
}

TEST(EvictionOrder, LetsWhatWasUsedOftenButLongAgoFallBehind) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  for (int i = 0; i < 10; ++i) order.use(1, 1.0, 1);
  EvictionOrder::Key next = 2;
  for (; next < 100; ++next) {
    order.use(next, 1.0, 1);
    const EvictionOrder::Key first = order.order().front();
    order.note_evicted(first);
    order.forget(first);
    if (first == 1) break;
  }
  // L rises by one with each thing used once, and 10 is what the first one has.
  EXPECT_EQ(next, 11U);
}

TEST(EvictionOrder, RaisesThePriorityOfWhatIsUsedAfterAnEviction) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  order.use(1, 5.0, 1);
  order.use(2, 1.0, 1);
  order.note_evicted(1);
  order.note_evicted(2);  // out of turn: L stays at 5
  order.use(3, 1.0, 1);
  EXPECT_DOUBLE_EQ(order.rank_of(3).priority, 6);
  order.set_cost(3, 2.0, 1);
  EXPECT_DOUBLE_EQ(order.rank_of(3).priority, 7);
}

TEST(EvictionOrder, CountsUsesAnewOnceItHasForgotten) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  for (int i = 0; i < 3; ++i) order.use(1, 1.0, 1);
  order.forget(1);
  order.use(1, 1.0, 1);
  EXPECT_DOUBLE_EQ(order.rank_of(1).priority, 1);
}

TEST(EvictionOrder, HeedsTheLastUseAloneWhereItIsLru) {
  EvictionOrder order(EvictionPolicy::kLru);
  order.use(1, 100.0, 1);
  order.use(1, 100.0, 1);
  order.use(2, 1.0, 1000);
  EXPECT_EQ(order.order(), (Keys{1, 2}));
  order.use(1, 0.0, 1);
  EXPECT_EQ(order.order(), (Keys{2, 1}));
}

TEST(EvictionOrder, RefusesWhatNoPriorityComesOf) {
  EvictionOrder order(EvictionPolicy::kGreedyDual);
  EXPECT_THROW(order.use(1, 1.0, 0), Error);
  EXPECT_THROW(order.use(1, -1.0, 1), Error);
  EXPECT_THROW(order.use(1, std::nan(""), 1), Error);
  EXPECT_THROW(order.rank_of(1), Error);
  EXPECT_TRUE(order.order().empty());
}

}  // namespace
}  // namespace sllm
