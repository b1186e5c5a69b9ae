/* Memory: what plays the device's is not at its address, so that a host that reads through a device pointer crashes;
   addresses are never given twice, and fresh memory is full of 0xCD. */
#include "standin.h"
#include <stdlib.h>
#include <string.h>

typedef struct { Address base; size_t bytes; char *data; Context *context; unsigned flags; } Block;
typedef struct { Block *blocks; size_t count, room; } Blocks;

static Blocks device_blocks, pinned_blocks;
static Address next_address = 0x200000000000ULL;

static Block *add(Blocks *all, Block block) {
    if (all->count == all->room) all->blocks = realloc(all->blocks, (all->room = all->room ? 2 * all->room : 64) * sizeof(Block));
    all->blocks[all->count] = block;
    return &all->blocks[all->count++];
}

static Block *find(Blocks *all, Address address) {
    for (size_t i = 0; i < all->count; i++)
        if (address - all->blocks[i].base < all->blocks[i].bytes) return &all->blocks[i];
    return NULL;
}

static void drop(Blocks *all, Block *block, long *bytes, long *allocations) {
    *bytes -= (long)block->bytes;
    --*allocations;
    free(block->data);
    *block = all->blocks[--all->count];
}

char *device_at(Address address, size_t bytes) {
    Block *block = find(&device_blocks, address);
    if (!block) block = find(&pinned_blocks, address); /* unified addressing: the device reads pinned memory, too */
    if (!block || bytes > block->bytes - (address - block->base)) return NULL;
    return block->data + (address - block->base);
}

/* Where the stand-in keeps `bytes` bytes of device memory, for those who play kernels; NULL: not all allocated. */
API char *standin_memory(Address address, size_t bytes) {
    LOCKED;
    return device_at(address, bytes);
}

int pinned_at(const char *host, size_t bytes) {
    Address start = (Address)(uintptr_t)host;
    Block *block = find(&pinned_blocks, start);
    if (block) return bytes <= block->bytes - (start - block->base) ? 1 : -1;
    return bytes && find(&pinned_blocks, start + bytes - 1) ? -1 : 0;
}

static size_t used_on(int device) {
    size_t used = 0;
    for (size_t i = 0; i < device_blocks.count; i++)
        if (device_blocks.blocks[i].context->device == device) used += device_blocks.blocks[i].bytes;
    return used;
}

extern int cuDeviceTotalMem_v2(size_t *bytes, int device);

static size_t total_of(int device) {
    size_t total = 0;
    unlock(NULL);
    cuDeviceTotalMem_v2(&total, device);
    lock();
    return total;
}

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    *total = total_of(context->device);
    *free_bytes = *total - used_on(context->device);
    return SUCCESS;
}

API int cuMemAlloc_v2(Address *address, size_t bytes) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(unsafe());
    if (!address || !bytes) return INVALID_VALUE;
    if (bytes > total_of(context->device) - used_on(context->device)) return OUT_OF_MEMORY;
    char *data = malloc(bytes);
    if (!data) return OUT_OF_MEMORY;
    memset(data, 0xCD, bytes);
    add(&device_blocks, (Block){next_address, bytes, data, context, 0});
    *address = next_address;
    next_address += (bytes + 0xFFFFF) & ~0xFFFFFULL; /* a gap after most */
    next_address += 0x100000;
    counters.device_bytes += (long)bytes;
    counters.device_allocations++;
    return SUCCESS;
}

API int cuMemFree_v2(Address address) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    if (!address) return SUCCESS;
    TRY(unsafe());
    Block *block = find(&device_blocks, address);
    if (!block || block->base != address) return INVALID_VALUE;
    drain_context(block->context, 0); /* cuMemFree waits for what may still use it */
    if ((block = find(&device_blocks, address))) drop(&device_blocks, block, &counters.device_bytes, &counters.device_allocations);
    return SUCCESS;
}

API int cuMemGetAddressRange_v2(Address *base, size_t *bytes, Address address) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    Block *block = find(&device_blocks, address);
    if (!block) return INVALID_VALUE;
    if (base) *base = block->base;
    if (bytes) *bytes = block->bytes;
    return SUCCESS;
}

API int cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
    LOCKED;
    Context *context;
    void *data;
    TRY(current(&context));
    TRY(unsafe());
    if (!host || !bytes || flags & ~7u) return INVALID_VALUE;
    if (posix_memalign(&data, 4096, bytes)) return OUT_OF_MEMORY;
    memset(data, 0xCD, bytes);
    add(&pinned_blocks, (Block){(Address)(uintptr_t)data, bytes, data, context, flags});
    *host = data;
    counters.pinned_bytes += (long)bytes;
    counters.pinned_allocations++;
    return SUCCESS;
}
API int cuMemAllocHost_v2(void **host, size_t bytes) { return cuMemHostAlloc(host, bytes, 0); }

API int cuMemFreeHost(void *host) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(unsafe());
    Block *block = find(&pinned_blocks, (Address)(uintptr_t)host);
    if (!block || block->data != host) return INVALID_VALUE;
    drain_context(block->context, 0);
    if ((block = find(&pinned_blocks, (Address)(uintptr_t)host))) drop(&pinned_blocks, block, &counters.pinned_bytes, &counters.pinned_allocations);
    return SUCCESS;
}

API int cuMemHostGetFlags(unsigned *flags, void *host) {
    LOCKED;
    Block *block = find(&pinned_blocks, (Address)(uintptr_t)host);
    if (!block) return INVALID_VALUE;
    *flags = block->flags | 2; /* every pinned allocation is mapped under unified addressing */
    return SUCCESS;
}

API int cuMemHostGetDevicePointer_v2(Address *address, void *host, unsigned flags) {
    LOCKED;
    if (flags || pinned_at(host, 1) != 1) return INVALID_VALUE;
    *address = (Address)(uintptr_t)host;
    return SUCCESS;
}

static void free_all(Blocks *all, Context *context, long *bytes, long *allocations) {
    for (size_t i = all->count; i-- > 0;)
        if (all->blocks[i].context == context) {
            counters.leaked_bytes += (long)all->blocks[i].bytes;
            counters.leaked_objects++;
            drop(all, &all->blocks[i], bytes, allocations);
        }
}

void free_memory_of(Context *context) {
    free_all(&device_blocks, context, &counters.device_bytes, &counters.device_allocations);
    free_all(&pinned_blocks, context, &counters.pinned_bytes, &counters.pinned_allocations);
}

/* The names that the header maps to _v2, as they are without it; 64-bit sizes in both. */
API int cuMemGetInfo(size_t *free_bytes, size_t *total) { return cuMemGetInfo_v2(free_bytes, total); }
API int cuMemAlloc(Address *address, size_t bytes) { return cuMemAlloc_v2(address, bytes); }
API int cuMemFree(Address address) { return cuMemFree_v2(address); }
API int cuMemAllocHost(void **host, size_t bytes) { return cuMemAllocHost_v2(host, bytes); }
API int cuMemGetAddressRange(Address *base, size_t *bytes, Address address) { return cuMemGetAddressRange_v2(base, bytes, address); }
API int cuMemHostGetDevicePointer(Address *address, void *host, unsigned flags) { return cuMemHostGetDevicePointer_v2(address, host, flags); }
