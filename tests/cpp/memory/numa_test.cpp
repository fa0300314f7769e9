#include "memory/numa.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/size.h"
#include "memory/populate.h"

namespace sllm {
namespace {

using Nodes = std::vector<unsigned>;

TEST(Nodes, AreReadAsTheKernelListsThem) {
  EXPECT_EQ(parse_nodes("0"), (Nodes{0}));
  EXPECT_EQ(parse_nodes("0-3"), (Nodes{0, 1, 2, 3}));
  EXPECT_EQ(parse_nodes("0-1,4,10-11\n"), (Nodes{0, 1, 4, 10, 11}));
}

TEST(Nodes, EndWhereTheListMakesNoSense) {
  EXPECT_EQ(parse_nodes(""), Nodes());
  EXPECT_EQ(parse_nodes("\n"), Nodes());
  EXPECT_EQ(parse_nodes("x"), Nodes());
  EXPECT_EQ(parse_nodes("1,,2"), (Nodes{1}));
  EXPECT_EQ(parse_nodes("1-"), Nodes());
  EXPECT_EQ(parse_nodes("3-1,5"), (Nodes{5}));
  EXPECT_EQ(parse_nodes("0,4294967295"), (Nodes{0}));
  EXPECT_EQ(parse_nodes("0-99999999999"), Nodes());
}

TEST(Nodes, GetSharesThatCoverAllAndDifferByOneAtMost) {
  for (std::uint64_t chunks = 0; chunks < 40; ++chunks) {
    for (unsigned count = 1; count < 9; ++count) {
      Nodes nodes;
      for (unsigned node = 0; node < count; ++node) nodes.push_back(10 + 2 * node);
      std::uint64_t next = 0;
      std::size_t place = 0;
      for (const NodeShare& share : divide_among(nodes, chunks)) {
        EXPECT_EQ(share.node, nodes[place++]);
        EXPECT_EQ(share.chunks.first, next);
        EXPECT_GE(share.chunks.count, std::max<std::uint64_t>(chunks / count, 1));
        EXPECT_LE(share.chunks.count, chunks / count + 1);
        next += share.chunks.count;
      }
      EXPECT_EQ(next, chunks);
    }
  }
  EXPECT_TRUE(divide_among({}, 7).empty());
}

TEST(Nodes, GiveMemoryOrAreRefused) {
  ChunkPool pool(8 * kMiB, 4 * kMiB);
  EXPECT_FALSE(prefer_node(pool.memory(), 1023));
  EXPECT_FALSE(prefer_node(pool.memory(), 1u << 20));
  const Nodes nodes = nodes_with_cores();
  if (nodes.empty() || !prefer_node(pool.memory(), nodes[0])) GTEST_SKIP() << "mbind is forbidden here";
  populate_write(pool.memory());
  EXPECT_EQ(pool.memory()[5], std::byte{0});
}

}  // namespace
}  // namespace sllm
