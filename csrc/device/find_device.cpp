#include "base/error.h"
#include "device/cuda_device.h"
#include "device/host_device.h"

namespace sllm {

std::shared_ptr<Device> find_device(std::string_view name) {
  if (name == "cpu") return std::make_shared<HostDevice>();
  if (name == "cuda" || name.starts_with("cuda:")) return find_cuda_device(CudaDriver::of_process(), name);
  throw Error(ErrorCode::kInvalid,
              "no device is called " + std::string(name) + ": cpu, cuda, cuda:0 or cuda: and a UUID are");
}

}  // namespace sllm
