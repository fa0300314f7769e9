// The driver itself, its devices and their contexts.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

#include "cuda_sim/call.h"

using cuda_sim::Call;
using cuda_sim::Context;
using cuda_sim::Device;
using cuda_sim::Result;
using cuda_sim::Simulator;

namespace {

struct Names {
  const char* name;
  const char* text;
};

const Names* names_of(Result result) {
  static const std::map<Result, Names> all = {
      {Result::kSuccess, {"CUDA_SUCCESS", "no error"}},
      {Result::kInvalidValue, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
      {Result::kOutOfMemory, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
      {Result::kNotInitialized, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
      {Result::kNoDevice, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
      {Result::kInvalidDevice, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
      {Result::kInvalidContext, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
      {Result::kEccUncorrectable, {"CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"}},
      {Result::kInvalidHandle, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
      {Result::kNotReady, {"CUDA_ERROR_NOT_READY", "device not ready"}},
      {Result::kIllegalAddress, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
      {Result::kHostMemoryAlreadyRegistered,
       {"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "part or all of the memory is already mapped"}},
      {Result::kHostMemoryNotRegistered,
       {"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        "pointer does not correspond to a registered memory region"}},
      {Result::kLaunchFailed, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
      {Result::kNotSupported, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
      {Result::kUnknown, {"CUDA_ERROR_UNKNOWN", "unknown error"}},
  };
  const auto found = all.find(result);
  return found == all.end() ? nullptr : &found->second;
}

// body(Device&) for a device that is there.
template <typename Body>
Result with_device(Call& call, int ordinal, Body&& body) {
  Simulator& simulator = call.simulator;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= simulator.visible.size()) {
    return call.refuse(Result::kInvalidDevice, "no device " + std::to_string(ordinal));
  }
  const int device = simulator.visible[static_cast<std::size_t>(ordinal)];
  return body(simulator.devices[static_cast<std::size_t>(device)]);
}

template <typename Body>
Result enter_device(const char* function, int ordinal, Body&& body) {
  return cuda_sim::enter(function, [&](Call& call) { return with_device(call, ordinal, body); });
}

sllm::cuda::Context to_handle(Context* context) { return reinterpret_cast<sllm::cuda::Context>(context); }

Context* find_context(Simulator& simulator, sllm::cuda::Context handle) {
  for (Device& device : simulator.devices) {
    if (to_handle(&device.context) == handle && device.context.retained > 0) return &device.context;
  }
  return nullptr;
}

}  // namespace

Result cuInit(unsigned flags) {
  Simulator& simulator = Simulator::get();
  const pid_t started = simulator.process.load(std::memory_order_relaxed);
  if (started != 0 && started != ::getpid()) return Result::kNotInitialized;
  const cuda_sim::Lock lock(simulator.mutex);
  const Result fault = simulator.fault_of("cuInit");
  if (fault != Result::kSuccess) return fault;
  if (flags != 0) return simulator.refuse(Result::kInvalidValue, "cuInit: flags");
  if (simulator.visible.empty()) return Result::kNoDevice;
  simulator.process.store(::getpid(), std::memory_order_relaxed);
  return Result::kSuccess;
}

Result cuDriverGetVersion(int* version) {
  Simulator& simulator = Simulator::get();
  const cuda_sim::Lock lock(simulator.mutex);
  const Result fault = simulator.fault_of("cuDriverGetVersion");
  if (fault == Result::kSuccess) *version = static_cast<int>(simulator.settings.version);
  return fault;
}

Result cuGetErrorName(Result result, const char** name) {
  const Names* names = names_of(result);
  *name = names != nullptr ? names->name : nullptr;
  return names != nullptr ? Result::kSuccess : Result::kInvalidValue;
}

Result cuGetErrorString(Result result, const char** text) {
  const Names* names = names_of(result);
  *text = names != nullptr ? names->text : nullptr;
  return names != nullptr ? Result::kSuccess : Result::kInvalidValue;
}

Result cuDeviceGetCount(int* count) {
  return cuda_sim::enter("cuDeviceGetCount", [&](Call& call) {
    *count = static_cast<int>(call.simulator.visible.size());
    return Result::kSuccess;
  });
}

Result cuDeviceGet(int* device, int ordinal) {
  return enter_device("cuDeviceGet", ordinal, [&](Device&) {
    *device = ordinal;
    return Result::kSuccess;
  });
}

Result cuDeviceGetName(char* name, int bytes, int ordinal) {
  return enter_device("cuDeviceGetName", ordinal, [&](Device& device) {
    std::snprintf(name, static_cast<std::size_t>(bytes), "Simulated GPU %d", device.context.device);
    return Result::kSuccess;
  });
}

Result cuDeviceGetUuid_v2(sllm::cuda::UuidBytes* uuid, int ordinal) {
  return enter_device("cuDeviceGetUuid_v2", ordinal, [&](Device& device) {
    std::memcpy(uuid->bytes, "cuda_sim_device_", sizeof(uuid->bytes));
    uuid->bytes[15] = static_cast<char>(device.context.device);
    return Result::kSuccess;
  });
}

Result cuDeviceGetAttribute(int* value, int attribute, int ordinal) {
  return cuda_sim::enter("cuDeviceGetAttribute", [&](Call& call) {
    return with_device(call, ordinal, [&](Device&) {
      if (attribute != sllm::cuda::kVirtualMemorySupported &&
          attribute != sllm::cuda::kDescriptorHandlesSupported) {
        return call.refuse(Result::kInvalidValue, "attribute " + std::to_string(attribute));
      }
      *value = call.simulator.settings.no_vmm == 0 ? 1 : 0;
      return Result::kSuccess;
    });
  });
}

Result cuDeviceTotalMem_v2(std::size_t* bytes, int ordinal) {
  return cuda_sim::enter("cuDeviceTotalMem_v2", [&](Call& call) {
    return with_device(call, ordinal, [&](Device&) {
      *bytes = call.simulator.settings.memory;
      return Result::kSuccess;
    });
  });
}

Result cuDevicePrimaryCtxRetain(sllm::cuda::Context* context, int ordinal) {
  return enter_device("cuDevicePrimaryCtxRetain", ordinal, [&](Device& device) {
    ++device.context.retained;
    *context = to_handle(&device.context);
    return Result::kSuccess;
  });
}

Result cuDevicePrimaryCtxRelease_v2(int ordinal) {
  return cuda_sim::enter_to_end("cuDevicePrimaryCtxRelease_v2", [&](Call& call) {
    return with_device(call, ordinal, [&](Device& device) {
      Context& context = device.context;
      if (context.retained == 0) return call.refuse(Result::kInvalidContext, "released more than retained");
      if (--context.retained == 0) call.simulator.end(context);
      return Result::kSuccess;
    });
  });
}

Result cuDevicePrimaryCtxGetState(int ordinal, unsigned* flags, int* is_active) {
  return enter_device("cuDevicePrimaryCtxGetState", ordinal, [&](Device& device) {
    *flags = 0;
    *is_active = device.context.retained > 0 ? 1 : 0;
    return Result::kSuccess;
  });
}

Result cuCtxPushCurrent_v2(sllm::cuda::Context handle) {
  return cuda_sim::enter_to_end("cuCtxPushCurrent_v2", [&](Call& call) {
    Context* context = find_context(call.simulator, handle);
    if (context == nullptr) return call.refuse(Result::kInvalidContext, "no such context");
    if (call.fault != Result::kSuccess) {
      call.simulator.lose(*context, call.fault);
      return call.fault;
    }
    cuda_sim::context_stack().push_back(context);
    ++call.simulator.entered;
    return Result::kSuccess;
  });
}

Result cuCtxPopCurrent_v2(sllm::cuda::Context* popped) {
  return cuda_sim::enter_to_end("cuCtxPopCurrent_v2", [&](Call& call) {
    auto& stack = cuda_sim::context_stack();
    if (stack.empty()) return call.refuse(Result::kInvalidContext, "nothing was pushed");
    if (popped != nullptr) *popped = to_handle(stack.back());
    stack.pop_back();
    --call.simulator.entered;
    return Result::kSuccess;
  });
}

Result cuCtxGetCurrent(sllm::cuda::Context* context) {
  return cuda_sim::enter("cuCtxGetCurrent", [&](Call&) {
    const auto& stack = cuda_sim::context_stack();
    *context = stack.empty() ? nullptr : to_handle(stack.back());
    return Result::kSuccess;
  });
}

// Replaces the top of the stack; none takes it away (CUDA Driver API).
Result cuCtxSetCurrent(sllm::cuda::Context handle) {
  return cuda_sim::enter("cuCtxSetCurrent", [&](Call& call) {
    auto& stack = cuda_sim::context_stack();
    Context* context = find_context(call.simulator, handle);
    if (handle != nullptr && context == nullptr) {
      return call.refuse(Result::kInvalidContext, "no such context");
    }
    if (!stack.empty()) stack.pop_back();
    if (context != nullptr) stack.push_back(context);
    return Result::kSuccess;
  });
}

Result cuCtxGetDevice(int* ordinal) {
  return cuda_sim::enter_context("cuCtxGetDevice", [&](cuda_sim::ContextCall& call) {
    const auto& visible = call.simulator.visible;
    const auto found = std::find(visible.begin(), visible.end(), call.context.device);
    *ordinal = static_cast<int>(found - visible.begin());
    return found != visible.end() ? Result::kSuccess : Result::kInvalidContext;
  });
}
