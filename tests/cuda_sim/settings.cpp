#include "cuda_sim/settings.h"

#include <cstdlib>
#include <map>
#include <optional>

namespace cuda_sim {
namespace {

std::optional<double> parse_number(const std::string& text) {
  static const std::map<std::string, double> units = {
      {"", 1}, {"KiB", 1024}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const auto unit = units.find(end);
  if (end == text.c_str() || unit == units.end() || !(number >= 0)) return std::nullopt;
  return number * unit->second;
}

std::optional<Fault> parse_fault(const std::string& text) {
  const std::size_t first = text.find(':');
  const std::size_t second = text.find(':', first + 1);
  if (first == std::string::npos || second == std::string::npos) return std::nullopt;
  const auto at = parse_number(text.substr(first + 1, second - first - 1));
  const auto code = parse_number(text.substr(second + 1));
  if (!at || !code) return std::nullopt;
  return Fault{text.substr(0, first), static_cast<std::uint64_t>(*at), static_cast<int>(*code)};
}

bool set_number(const std::string& name, double value, Settings& settings) {
  const std::map<std::string, double*> rates = {{"h2d", &settings.h2d},
                                                {"d2h", &settings.d2h},
                                                {"d2d", &settings.d2d},
                                                {"latency_us", &settings.latency_us}};
  const std::map<std::string, std::uint64_t*> counts = {{"devices", &settings.devices},
                                                        {"memory", &settings.memory},
                                                        {"register_limit", &settings.register_limit},
                                                        {"no_vmm", &settings.no_vmm},
                                                        {"no_ipc", &settings.no_ipc},
                                                        {"version", &settings.version},
                                                        {"lost", &settings.lost},
                                                        {"populate", &settings.populate}};
  if (const auto rate = rates.find(name); rate != rates.end()) {
    *rate->second = value;
    return true;
  }
  const auto count = counts.find(name);
  if (count == counts.end()) return false;
  *count->second = static_cast<std::uint64_t>(value);
  return settings.devices <= kMostDevices;
}

bool apply_one(const std::string& item, Settings& settings) {
  const std::size_t equals = item.find('=');
  if (equals == std::string::npos) return false;
  const std::string name = item.substr(0, equals);
  const std::string value = item.substr(equals + 1);
  if (name == "report") {
    settings.report = value;
    return true;
  }
  if (name == "fail") {
    const auto fault = parse_fault(value);
    if (fault) settings.faults.push_back(*fault);
    return fault.has_value();
  }
  const auto number = parse_number(value);
  return number && set_number(name, *number, settings);
}

}  // namespace

bool apply(std::string_view text, Settings& settings) {
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (comma > 0 && !apply_one(std::string(text.substr(0, comma)), settings)) return false;
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return true;
}

}  // namespace cuda_sim
