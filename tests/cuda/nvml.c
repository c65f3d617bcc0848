/* NVIDIA's management library for the devices of cudart.c. */
#include <stdlib.h>
#include <string.h>

static int count(void) { return getenv("FAKE_CUDA_DEVICES") ? atoi(getenv("FAKE_CUDA_DEVICES")) : 1; }

int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "NVML"; }
int nvmlSystemGetDriverVersion(char *to, unsigned bytes) { return strncpy(to, "580.00", bytes), 0; }
int nvmlSystemGetCudaDriverVersion(int *to) { return *to = 13000, 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *to) { return *to = 13000, 0; }
int nvmlDeviceGetCount_v2(unsigned *to) { return *to = count(), 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) { return (int)index < count() ? (*to = (void *)(long)(index + 1), 0) : 2; }
int nvmlDeviceGetName(void *device, char *to, unsigned bytes) { return strncpy(to, "Fake GPU", bytes), 0; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { return *major = 8, *minor = 0, 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *to) { return *to = 61, 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *to) { return *to = 4, 0; } /* power cap */
int nvmlDeviceGetUtilizationRates(void *device, unsigned to[2]) { return to[0] = 97, to[1] = 40, 0; }

/* version, total, reserved, free, used */
int nvmlDeviceGetMemoryInfo_v2(void *device, unsigned long long to[5]) {
    return to[1] = 8ull << 30, to[2] = 0, to[3] = 6ull << 30, to[4] = 2ull << 30, 0;
}
