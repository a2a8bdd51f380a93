/* A driver and a runtime of one device that does nothing: enough for autograd to believe that the device is there.
   Loaded before torch, its functions take the place of those that torch was linked to. */
#define F(n) int n(void){return 0;}
F(cuCtxGetCurrent) F(cuCtxSetCurrent) F(cuDeviceGet) F(cuDeviceGetAttribute) F(cuDevicePrimaryCtxRetain) F(cuFuncGetAttribute)
F(cuFuncSetAttribute) F(cuFuncSetCacheConfig) F(cuGetErrorString) F(cuLaunchCooperativeKernel) F(cuLaunchKernel) F(cuLinkAddData_v2)
F(cuLinkComplete) F(cuLinkCreate_v2) F(cuModuleGetFunction) F(cuModuleLoad) F(cuModuleLoadData) F(cuModuleLoadDataEx) F(cuModuleUnload)
F(cuOccupancyMaxActiveBlocksPerMultiprocessor) F(cuPointerGetAttribute) F(cuTensorMapEncodeTiled)
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a){*f=0;*a=0;return 0;}
signed char _ZN3c104cuda12device_countEv(void){return 1;}
int cudaDeviceCanAccessPeer(int*v,int a,int d){*v=0;return 0;}
F(cudaDeviceEnablePeerAccess)
int cudaDeviceGetAttribute(int*v,int a,int d){*v=0;return 0;}
F(cudaDeviceGetDefaultMemPool)
F(cudaDeviceGetGraphMemAttribute)
F(cudaDeviceGetPCIBusId)
int cudaDeviceGetStreamPriorityRange(int*a,int*b){if(a)*a=0;if(b)*b=-5;return 0;}
F(cudaDeviceSetGraphMemAttribute)
F(cudaDeviceSynchronize)
int cudaDriverGetVersion(int*v){*v=13020;return 0;}
F(cudaEventCreate)
int cudaEventCreateWithFlags(void**s,unsigned f){*s=(void*)8;return 0;}
F(cudaEventDestroy)
F(cudaEventElapsedTime)
F(cudaEventQuery)
F(cudaEventRecord)
F(cudaEventRecordWithFlags)
F(cudaEventSynchronize)
F(cudaFree)
F(cudaFreeAsync)
F(cudaFreeHost)
F(cudaFuncGetAttributes)
F(cudaFuncSetAttribute)
int cudaGetDevice(int*n){*n=0;return 0;}
int cudaGetDeviceCount(int*n){*n=1;return 0;}
F(cudaGetDriverEntryPointByVersion)
const char*cudaGetErrorName(int e){return "stub";}
const char*cudaGetErrorString(int e){return "stub";}
F(cudaGetLastError)
F(cudaGetSymbolAddress)
F(cudaGraphAddNode)
F(cudaGraphConditionalHandleCreate)
F(cudaGraphDestroy)
F(cudaGraphExecDestroy)
F(cudaGraphGetNodes)
F(cudaGraphInstantiate)
F(cudaGraphInstantiateWithFlags)
F(cudaGraphLaunch)
F(cudaGraphNodeGetDependencies)
F(cudaGraphRetainUserObject)
F(cudaHostAlloc)
F(cudaHostRegister)
F(cudaHostUnregister)
F(cudaIpcCloseMemHandle)
F(cudaIpcGetEventHandle)
F(cudaIpcGetMemHandle)
F(cudaIpcOpenEventHandle)
F(cudaIpcOpenMemHandle)
F(cudaKernelSetAttributeForDevice)
F(cudaLaunchHostFunc)
F(cudaLaunchKernel)
F(cudaLaunchKernelExC)
F(cudaLibraryGetGlobal)
F(cudaLibraryGetKernel)
F(cudaLibraryGetKernelCount)
F(cudaLibraryGetManaged)
F(cudaLibraryGetUnifiedFunction)
F(cudaLibraryLoadData)
F(cudaLibraryLoadFromFile)
F(cudaLibraryUnload)
F(cudaMalloc)
F(cudaMallocAsync)
F(cudaMallocHost)
F(cudaMallocManaged)
int cudaMemGetInfo(unsigned long*a,unsigned long*b){*a=*b=80ul<<30;return 0;}
F(cudaMemPoolGetAttribute)
F(cudaMemPoolSetAccess)
F(cudaMemPoolSetAttribute)
F(cudaMemPoolTrimTo)
F(cudaMemcpy)
F(cudaMemcpyAsync)
F(cudaMemcpyPeerAsync)
F(cudaMemcpyToSymbol)
F(cudaMemset)
F(cudaMemsetAsync)
F(cudaOccupancyMaxActiveBlocksPerMultiprocessor)
F(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
F(cudaPeekAtLastError)
int cudaPointerGetAttributes(int*v,void*p){for(int i=0;i<8;i++)v[i]=0;return 0;}
F(cudaProfilerStart)
F(cudaProfilerStop)
int cudaRuntimeGetVersion(int*v){*v=13020;return 0;}
F(cudaSetDevice)
F(cudaStreamAddCallback)
F(cudaStreamBeginCapture)
F(cudaStreamBeginCaptureToGraph)
F(cudaStreamCreate)
F(cudaStreamCreateWithFlags)
int cudaStreamCreateWithPriority(void**s,unsigned f,int p){*s=(void*)8;return 0;}
F(cudaStreamDestroy)
F(cudaStreamEndCapture)
F(cudaStreamGetCaptureInfo)
F(cudaStreamGetPriority)
int cudaStreamIsCapturing(void*s,int*c){*c=0;return 0;}
F(cudaStreamQuery)
F(cudaStreamSynchronize)
F(cudaStreamUpdateCaptureDependencies)
F(cudaStreamWaitEvent)
F(cudaThreadExchangeStreamCaptureMode)
F(cudaUserObjectCreate)
F(cudaUserObjectRelease)

static int props(char*p,int d){for(int i=0;i<1008;i++)p[i]=0;const char*n="fake H100";for(int i=0;n[i];i++)p[i]=n[i];
*(unsigned long*)(p+288)=80ul<<30;*(unsigned long*)(p+296)=49152;*(int*)(p+304)=65536;*(int*)(p+308)=32;*(int*)(p+320)=1024;*(int*)(p+360)=9;*(int*)(p+364)=0;return 0;}
int cudaGetDeviceProperties(char*p,int d){return props(p,d);}
int cudaGetDeviceProperties_v2(char*p,int d){return props(p,d);}
