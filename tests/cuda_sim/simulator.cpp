#include "cuda_sim/simulator.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace cuda_sim {
namespace {

// The first number that is none, or is no device's, ends the list (CUDA Programming Guide, "Environment
// Variables").
std::vector<int> find_visible(int devices) {
  std::vector<int> visible;
  const char* named = std::getenv("CUDA_VISIBLE_DEVICES");
  if (named == nullptr) {
    for (int device = 0; device < devices; ++device) visible.push_back(device);
    return visible;
  }
  for (char* end = nullptr; *named != '\0'; named = *end == ',' ? end + 1 : end) {
    const long device = std::strtol(named, &end, 10);
    if (end == named || device < 0 || device >= devices) break;
    visible.push_back(static_cast<int>(device));
  }
  return visible;
}

}  // namespace

Simulator& Simulator::get() {
  static Simulator* const simulator = new Simulator;
  return *simulator;
}

Simulator::Simulator() {
  for (int device = 0; device < kMostDevices; ++device)
    devices[static_cast<std::size_t>(device)].context.device = device;
  Settings wanted;
  const char* text = std::getenv("SLLM_CUDA_SIM");
  if (text != nullptr && !apply(text, wanted)) std::fprintf(stderr, "cuda_sim: cannot understand %s\n", text);
  use(wanted);
}

void Simulator::use(const Settings& wanted) {
  settings = wanted;
  counts = {};
  visible = find_visible(static_cast<int>(settings.devices));
  for (Device& device : devices) {
    for (const auto& [link, rate] :
         {std::pair{&device.h2d, settings.h2d}, {&device.d2h, settings.d2h}, {&device.d2d, settings.d2d}}) {
      link->set_rate(rate);
      link->reset_counts();
    }
    device.context.state.latency_ns.store(static_cast<std::int64_t>(settings.latency_us * 1000),
                                          std::memory_order_relaxed);
  }
  counts.most_registered = registered_bytes();
}

std::uint64_t Simulator::registered_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [start, registration] : registrations) bytes += registration.bytes;
  return bytes;
}

Result Simulator::refuse(Result code, const std::string& text) {
  counts.violations.push_back(text);
  return code;
}

void Simulator::lose(Context& context, Result code) {
  int none = 0;
  context.state.error.compare_exchange_strong(none, static_cast<int>(code), std::memory_order_relaxed);
  for (auto& [number, stream] : context.streams) {
    const auto mark = stream->push_mark();
    mark->wait();
    note_done(*mark);
  }
}

void Simulator::settle(std::span<const std::byte> memory, const char* what) {
  for (Device& device : devices) {
    for (auto& [number, stream] : device.context.streams) {
      if (!stream->is_copying(memory)) continue;
      refuse(Result::kSuccess, std::string(what) + " with copies that nobody waited for");
      const auto mark = stream->push_mark();
      mark->wait();
      note_done(*mark);
    }
  }
}

void Simulator::note_done(const Mark& mark) {
  for (Device& device : devices) {
    const auto found = device.context.streams.find(mark.stream);
    if (found == device.context.streams.end()) continue;
    found->second->note_done(mark.position, [this](const Mark& earlier) { note_done(earlier); });
    return;
  }
}

void Simulator::end(Context& context) {
  const bool is_lost = context.error() != Result::kSuccess;
  const std::uint64_t reclaimed = reclaim(context);
  if (reclaimed > 0 && !is_lost) {
    refuse(Result::kSuccess, "a context ended with " + std::to_string(reclaimed) + " objects in it");
  }
  context.state.error.store(0, std::memory_order_relaxed);
}

std::uint64_t Simulator::reclaim(Context& context) {
  std::uint64_t reclaimed = context.streams.size();
  context.streams.clear();
  reclaimed += std::erase_if(events, [&](const auto& event) { return event.second.context == &context; });
  reclaimed +=
      std::erase_if(registrations, [&](const auto& each) { return each.second.context == &context; });
  reclaimed += std::erase_if(regions, [&](const auto& region) {
    return region.second.kind != RegionKind::kPlaced && region.second.backing->device() == context.device;
  });
  return reclaimed;
}

Result Simulator::fault_of(std::string_view function) {
  auto count = counts.calls.find(function);
  if (count == counts.calls.end()) count = counts.calls.emplace(function, 0).first;
  const std::uint64_t of_function = count->second++;
  const std::uint64_t of_all = counts.all_calls++;
  if (of_all >= settings.lost) {
    for (Device& device : devices) {
      if (device.context.retained > 0) lose(device.context, Result::kEccUncorrectable);
    }
    return Result::kEccUncorrectable;
  }
  for (const Fault& fault : settings.faults) {
    const bool is_hit = (fault.function == function && fault.at == of_function) ||
                        (fault.function == "*" && fault.at == of_all);
    if (is_hit) return static_cast<Result>(fault.code);
  }
  return Result::kSuccess;
}

int Simulator::fault_of_copy() {
  const std::uint64_t at = counts.copies++;
  for (const Fault& fault : settings.faults) {
    if (fault.function == "copy" && fault.at == at) return fault.code;
  }
  return 0;
}

}  // namespace cuda_sim
