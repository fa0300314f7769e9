#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cuda_sim {

inline constexpr int kMostDevices = 16;

// One fault to come: the `at`-th call of `function` returns `code`.
struct Fault {
  std::string function;
  std::uint64_t at = 0;
  int code = 0;
};

struct Settings {
  std::uint64_t devices = 1;
  std::uint64_t memory = std::uint64_t{4} << 30;
  double h2d = 10e9;
  double d2h = 10e9;
  double d2d = 0;
  double latency_us = 10;
  std::uint64_t populate = 0;
  std::uint64_t register_limit = 0;
  std::uint64_t no_vmm = 0;
  std::uint64_t no_ipc = 0;
  std::uint64_t version = 12040;
  std::vector<Fault> faults;
  std::uint64_t lost = UINT64_MAX;
  std::string report;
};

// Changes what the text names; false where it cannot be understood.
bool apply(std::string_view text, Settings& settings);

}  // namespace cuda_sim
