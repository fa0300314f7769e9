#include "store/claims.h"

#include <gtest/gtest.h>

namespace sllm {
namespace {

using Begun = Claims::Begun;
using Ended = Claims::Ended;
using Parts = std::vector<PartId>;

constexpr PartId kOne{1, 0, 0};
constexpr PartId kTwo{1, 0, 1};

TEST(Claims, FollowsSpansUntilAPartIsWhole) {
  Claims claims;
  EXPECT_EQ(claims.begin(kOne, 0), Begun::kNotClaimed);
  claims.add(kOne, 2);
  EXPECT_EQ(claims.begin(kOne, 1), Begun::kComing);
  EXPECT_EQ(claims.begin(kOne, 1), Begun::kIsComing);
  EXPECT_EQ(claims.miss(kOne, 1), Ended::kNothing);
  EXPECT_EQ(claims.begin(kOne, 1), Begun::kComing);
  EXPECT_EQ(claims.land(kOne, 1), Ended::kNothing);
  EXPECT_EQ(claims.begin(kOne, 1), Begun::kHasLanded);
  EXPECT_EQ(claims.begin(kOne, 0), Begun::kComing);
  EXPECT_EQ(claims.land(kOne, 0), Ended::kWhole);
  EXPECT_EQ(claims.begin(kOne, 0), Begun::kNotClaimed);
}

TEST(Claims, GivesUpWhatIsComingOnlyAtItsEnd) {
  Claims claims;
  claims.add(kOne, 3);
  claims.add(kTwo, 1);
  claims.begin(kOne, 0);
  claims.begin(kOne, 1);
  EXPECT_EQ(claims.give_up(), Parts{kTwo});
  EXPECT_EQ(claims.begin(kOne, 2), Begun::kNotClaimed);
  EXPECT_EQ(claims.land(kOne, 1), Ended::kNothing);
  EXPECT_TRUE(claims.give_up().empty());
  EXPECT_EQ(claims.miss(kOne, 0), Ended::kGivenUp);
  EXPECT_TRUE(claims.give_up().empty());
}

TEST(Claims, IsWholeWhereAllThatWasComingLandsThoughItWasGivenUp) {
  Claims claims;
  claims.add(kOne, 1);
  claims.begin(kOne, 0);
  EXPECT_TRUE(claims.give_up().empty());
  EXPECT_EQ(claims.land(kOne, 0), Ended::kWhole);
}

TEST(Claims, BeginsAllOfWhatNobodyIsBringing) {
  Claims claims;
  claims.add(kOne, 2);
  claims.add(kTwo, 2);
  claims.begin(kOne, 0);
  claims.begin(kTwo, 1);
  claims.land(kTwo, 1);
  EXPECT_EQ(claims.begin_all(), Parts{kTwo});
  EXPECT_TRUE(claims.begin_all().empty());
  EXPECT_EQ(claims.land(kTwo, 0), Ended::kNothing) << "what had landed is coming again";
  EXPECT_TRUE(claims.drop(kTwo));
  EXPECT_FALSE(claims.drop(kTwo));
}

}  // namespace
}  // namespace sllm
