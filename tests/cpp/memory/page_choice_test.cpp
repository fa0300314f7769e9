#include "memory/page_choice.h"

#include <gtest/gtest.h>

#include "base/size.h"

namespace sllm {
namespace {

// A machine on which each kind takes as long as is said here.
struct Machine {
  double small_s_per_mib;
  double huge_s_per_mib;

  // How many of `count` populations took huge pages.
  int huge_of(PageChoice& choice, int count) const {
    int huge = 0;
    for (int i = 0; i < count; ++i) {
      const PageKind kind = choice.next();
      huge += kind == PageKind::kHuge;
      choice.record(kind, kMiB, kind == PageKind::kHuge ? huge_s_per_mib : small_s_per_mib);
    }
    return huge;
  }
};

constexpr Machine kWhole{.small_s_per_mib = 3e-4, .huge_s_per_mib = 5e-5};
constexpr Machine kFragmented{.small_s_per_mib = 3e-4, .huge_s_per_mib = 2e-3};

TEST(PageChoice, TakesHugePagesWhereTheyComeFaster) {
  PageChoice choice;
  EXPECT_GE(kWhole.huge_of(choice, 1000), 990);
}

TEST(PageChoice, TakesSmallPagesWhereMemoryIsFragmented) {
  PageChoice choice;
  EXPECT_LE(kFragmented.huge_of(choice, 1000), 10);
}

TEST(PageChoice, TakesHugePagesEvenWhereTheyComeALittleSlower) {
  PageChoice choice;
  EXPECT_GE((Machine{.small_s_per_mib = 1e-3, .huge_s_per_mib = 1.5e-3}.huge_of(choice, 1000)), 980);
}

TEST(PageChoice, TakesHugePagesOfSharedMemoryWhereTheyComeThreeTimesSlower) {
  constexpr Machine kSlow{.small_s_per_mib = 1e-3, .huge_s_per_mib = 3.5e-3};
  PageChoice of_shared(PageChoice::kWorthShared);
  EXPECT_GE(kSlow.huge_of(of_shared, 1000), 980);
  PageChoice of_private;
  EXPECT_LE(kSlow.huge_of(of_private, 1000), 20);
}

TEST(PageChoice, NoticesWhenMemoryBecomesFragmentedOrWholeAgain) {
  PageChoice choice;
  kWhole.huge_of(choice, 100);
  EXPECT_LE(kFragmented.huge_of(choice, 500), 10);
  EXPECT_GE(kWhole.huge_of(choice, 2000), 1000);
}

TEST(PageChoice, IsNotSwayedByWhatTookNoBytes) {
  PageChoice choice;
  choice.record(PageKind::kHuge, 0, 1e9);
  EXPECT_EQ(choice.next(), PageKind::kHuge);
}

}  // namespace
}  // namespace sllm
