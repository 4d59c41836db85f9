/* stream.h - the type of cudaStream_t, without the CUDA headers. */
#ifndef HN_STREAM_H
#define HN_STREAM_H
typedef struct CUstream_st *hn_stream;
#endif
