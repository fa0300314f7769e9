#include "memory/numa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

namespace sllm {
namespace {

constexpr long kPreferred = 1;  // MPOL_PREFERRED, whose header comes with libnuma
constexpr unsigned kMostNodes = 1024;
constexpr unsigned kWordBits = 8 * sizeof(unsigned long);

std::vector<unsigned> read_nodes(const char* path) {
  std::ifstream list(path);
  std::string text;
  std::getline(list, text);
  return parse_nodes(text);
}

// Takes a number off the text's front.
bool take_number(std::string_view& text, unsigned& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number >= kMostNodes) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

}  // namespace

std::vector<unsigned> parse_nodes(std::string_view text) {
  std::vector<unsigned> nodes;
  unsigned first = 0;
  while (take_number(text, first)) {
    unsigned last = first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      if (!take_number(text, last)) break;
    }
    for (unsigned node = first; node <= last; ++node) nodes.push_back(node);
    if (!text.starts_with(',')) break;
    text.remove_prefix(1);
  }
  return nodes;
}

std::vector<unsigned> nodes_with_cores() {
  const std::vector<unsigned> memory = read_nodes("/sys/devices/system/node/has_memory");
  const std::vector<unsigned> cores = read_nodes("/sys/devices/system/node/has_cpu");
  std::vector<unsigned> both;
  std::set_intersection(memory.begin(), memory.end(), cores.begin(), cores.end(), std::back_inserter(both));
  return both;
}

std::vector<NodeShare> divide_among(std::span<const unsigned> nodes, std::uint64_t chunks) {
  std::vector<NodeShare> shares;
  std::uint64_t first = 0;
  for (std::uint64_t i = 0; i < nodes.size(); ++i) {
    const std::uint64_t count = chunks / nodes.size() + (i < chunks % nodes.size() ? 1 : 0);
    if (count > 0) shares.push_back({nodes[i], {first, count}});
    first += count;
  }
  return shares;
}

bool prefer_node(std::span<std::byte> memory, unsigned node) {
  if (node >= kMostNodes) return false;
  std::array<unsigned long, kMostNodes / kWordBits> mask{};
  mask[node / kWordBits] = 1UL << (node % kWordBits);
  // The kernel looks at one bit fewer than it is told.
  return ::syscall(SYS_mbind, memory.data(), memory.size(), kPreferred, mask.data(), kMostNodes + 1UL, 0UL) ==
         0;
}

}  // namespace sllm
