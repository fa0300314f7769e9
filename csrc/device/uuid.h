#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sllm {

// What names a device in every process, whatever number it has there.
using Uuid = std::array<std::uint8_t, 16>;

// "00112233-4455-6677-8899-aabbccddeeff".
std::string uuid_text(const Uuid& uuid);

// As uuid_text() writes it, in either case; "GPU-" or "MIG-" may stand in front, as nvidia-smi prints it.
std::optional<Uuid> parse_uuid(std::string_view text);

}  // namespace sllm
