/* A cuDNN that has one engine for everything, which does nothing. Numbers are those of cuDNN 9's headers. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { KNOB_CHOICES = 302, NUMERICAL_NOTE = 1303, BEHAVIOR_NOTE = 1305 };
enum { INT64 = 3, DESCRIPTOR = 15 };

static int handle(void **to) { return (*to = calloc(1, 256)) ? 0 : 2; }

unsigned long cudnnGetVersion(void) { return 91000; }
const char *cudnnGetErrorString(int error) { return "CUDNN_STATUS"; }
void cudnnGetLastErrorString(char *to, size_t bytes) { if (bytes) *to = 0; }
int cudnnCreate(void **to) { return handle(to); }
int cudnnGetStream(void *handle, void **stream) { return *stream = NULL, 0; }
int cudnnGetReductionWorkspaceSize(void *h, void *r, void *a, void *c, size_t *bytes) { return *bytes = 0; }
int cudnnGetReductionIndicesSize(void *h, void *r, void *a, void *c, size_t *bytes) { return *bytes = 0; }
int cudnnBackendCreateDescriptor(int type, void **to) { return handle(to); }

#define CREATE(what) int cudnnCreate##what##Descriptor(void **to) { return handle(to); }
CREATE(Activation) CREATE(Convolution) CREATE(Dropout) CREATE(Filter) CREATE(LRN) CREATE(Pooling)
CREATE(RNN) CREATE(RNNData) CREATE(ReduceTensor) CREATE(Tensor)

int cudnnBackendGetAttribute(void *of, int name, int type, int64_t wanted, int64_t *count, void *to) {
    int64_t has = name == KNOB_CHOICES || name == NUMERICAL_NOTE || name == BEHAVIOR_NOTE ? 0 : 1;
    if (count) *count = has;
    if (to && has && wanted > 0 && type != DESCRIPTOR) memset(to, 0, type == INT64 ? 8 : 4);
    return 0;
}
