#pragma once

#include <cstdint>

// The part of the DLPack interface (version 0.8, the legacy capsule) through which memory is handed over,
// declared here so that the build needs no header of it.
namespace sllm::dlpack {

inline constexpr std::int32_t kDeviceCpu = 1;
inline constexpr std::uint8_t kTypeUnsigned = 1;
inline constexpr const char* kCapsuleName = "dltensor";

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t dimensions;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor* self);
};

}  // namespace sllm::dlpack
