/* Stands in for libcuda.so.1, libcublas.so and libnvrtc.so where there is no GPU, and fails as FAILS says. Memory is the host's; kernels and
   products do nothing, so that every number is zero. FAILS: `no-gpu`, `old-driver`, `other-gpu`, `memory` (all of it taken), or the number of
   bytes that the GPU has. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static const char *fails(void) {
  const char *how = getenv("FAILS");
  return how ? how : "";
}
static int is(const char *how) { return !strcmp(fails(), how); }
static void *some = (void *)1;
static unsigned long long used;

enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_BINARY_FOR_GPU = 209 };

int cuInit(unsigned flags) { return is("no-gpu") ? NO_DEVICE : 0; }
int cuDriverGetVersion(int *version) { return *version = is("old-driver") ? 11040 : 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int index) { return *device = index, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = 0, 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = 1 << 30, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
  return *context = some, is("memory") ? OUT_OF_MEMORY : 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxGetCurrent(void **context) { return *context = some, 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuEventCreate(void **event, unsigned flags) { return *event = some, 0; }
int cuEventDestroy_v2(void *event) { return 0; }
int cuEventElapsedTime(float *ms, void *from, void *to) { return *ms = 0, 0; }
int cuEventRecord(void *event, void *stream) { return 0; }
int cuGetErrorName(int error, const char **name) { return *name = "a name", 0; }
int cuGetErrorString(int error, const char **text) { return *text = "what it means", 0; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream,
                   void **params, void **extra) {
  return 0;
}
int cuMemAlloc_v2(unsigned long long *at, size_t bytes) {
  unsigned long long limit = strtoull(fails(), NULL, 10);
  if (limit && used + bytes > limit) return OUT_OF_MEMORY;
  void *memory = calloc(bytes ? bytes : 1, 1);
  used += malloc_usable_size(memory);
  return *at = (unsigned long long)memory, 0;
}
int cuMemAllocAsync(unsigned long long *at, size_t bytes, void *stream) { return cuMemAlloc_v2(at, bytes); }
int cuMemFree_v2(unsigned long long at) {
  used -= malloc_usable_size((void *)at);
  return free((void *)at), 0;
}
int cuMemFreeAsync(unsigned long long at, void *stream) { return cuMemFree_v2(at); }
int cuMemGetInfo_v2(size_t *available, size_t *total) { return *available = (1 << 30) - used, *total = 1 << 30, 0; }
int cuMemcpyDtoD_v2(unsigned long long to, unsigned long long from, size_t bytes) {
  return memcpy((void *)to, (void *)from, bytes), 0;
}
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void *stream) {
  return cuMemcpyDtoD_v2(to, from, bytes);
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) { return memcpy(to, (void *)from, bytes), 0; }
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *stream) { return cuMemcpyDtoH_v2(to, from, bytes); }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) { return memcpy((void *)to, from, bytes), 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *stream) { return cuMemcpyHtoD_v2(to, from, bytes); }
int cuMemsetD8_v2(unsigned long long at, unsigned char value, size_t bytes) { return memset((void *)at, value, bytes), 0; }
int cuMemsetD8Async(unsigned long long at, unsigned char value, size_t bytes, void *stream) { return cuMemsetD8_v2(at, value, bytes); }
int cuModuleGetFunction(void **function, void *module, const char *name) { return *function = some, 0; }
int cuModuleLoad(void **module, const char *path) { return *module = some, 0; }
int cuModuleLoadData(void **module, const void *image) { return *module = some, is("other-gpu") ? NO_BINARY_FOR_GPU : 0; }
int cuModuleUnload(void *module) { return 0; }
int cuStreamCreate(void **stream, unsigned flags) { return *stream = some, 0; }
int cuStreamDestroy_v2(void *stream) { return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }

int cublasCreate_v2(void **handle) { return *handle = some, 0; }
int cublasDestroy_v2(void *handle) { return 0; }
int cublasSetStream_v2(void *handle, void *stream) { return 0; }
int cublasSgemm_v2(void *handle) { return 0; }
int cublasDgemm_v2(void *handle) { return 0; }
int cublasSgemmStridedBatched(void *handle) { return 0; }
int cublasDgemmStridedBatched(void *handle) { return 0; }

int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
int nvrtcCreateProgram(void **program, const char *source, const char *name, int headers, const char **texts, const char **names) {
  return *program = some, 0;
}
int nvrtcCompileProgram(void *program, int options, const char **texts) { return 0; }
int nvrtcDestroyProgram(void **program) { return 0; }
int nvrtcGetPTX(void *program, char *ptx) { return *ptx = 0, 0; }
int nvrtcGetPTXSize(void *program, size_t *bytes) { return *bytes = 1, 0; }
int nvrtcGetProgramLog(void *program, char *log) { return *log = 0, 0; }
int nvrtcGetProgramLogSize(void *program, size_t *bytes) { return *bytes = 1, 0; }
