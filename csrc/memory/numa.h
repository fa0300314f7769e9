#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "memory/chunk_pool.h"

namespace sllm {

// A node's memory, and the chunks that shall come from it.
struct NodeShare {
  unsigned node = 0;
  ChunkRange chunks;

  bool operator==(const NodeShare&) const = default;
};

// "0-1,4" as sysfs lists nodes; what is no such list ends it.
std::vector<unsigned> parse_nodes(std::string_view text);

// This machine's nodes that have both memory and cores: some devices' memory is a node without any, and not
// meant for this. Empty where the kernel doesn't say.
std::vector<unsigned> nodes_with_cores();

// Neighbouring chunks for each node, as many as for any other, or one more; none for a node where there are
// fewer chunks than nodes.
std::vector<NodeShare> divide_among(std::span<const unsigned> nodes, std::uint64_t chunks);

// Memory that is touched from here on comes from the node while that has some (mbind(2), MPOL_PREFERRED).
// False where the kernel refuses.
bool prefer_node(std::span<std::byte> memory, unsigned node);

}  // namespace sllm
